"""A GGUF file's words back into those of transformers: its config, and its tensors as the class stores them.

Of the classes whose files have the architecture that is taken whose config gives most of what the file says.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gguf import MODEL_ARCH_NAMES

from convert.architecture.config_back import config_of, differences
from convert.architecture.family import n_layers
from convert.architecture.given import Given
from convert.architecture.hyperparameters import read_hyperparameters
from convert.architecture.stored_names import STORED_NAMES
from convert.architecture.tensors_back import stored_tensors
from convert.architecture.transformers_defaults import FIELDS
from convert.errors import ConvertError, UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from convert.architecture.family import Family
    from convert.checkpoint import Tensor


@dataclass(frozen=True, slots=True)
class Restored:
    """What a class of transformers loads. lost: what of the file the config does not give, a line each."""

    family: Family
    config: Mapping[str, Any]
    tensors: Mapping[str, Tensor]
    lost: tuple[str, ...]


def restored(
    families: Sequence[Family],
    arch: str,
    values: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    numbers: Callable[[str], tuple[float, ...]],
    *,
    tied: bool,
) -> list[Restored]:
    """Find the classes whose config gives most of what the file says, and give their configs and tensors.

    arch, values, tensors: the file's architecture, metadata and tensors, the latter as floats. numbers: reads a small
    tensor. tied: the output matrix is the embeddings.
    Raises UnsupportedError for an architecture that is no family's, or tensors that no class of its families has.
    """
    refused: list[ConvertError] = []
    found: list[Restored] = []
    for family, class_name in _classes(families, arch):
        given = Given(values, arch, tensors, numbers, STORED_NAMES[class_name][0], {})
        try:
            found.append(_of_class(family, class_name, given, tied=tied))
        except ConvertError as error:
            refused.append(error)
    if found:
        least = min(len(restored.lost) for restored in found)
        fitting = [restored for restored in found if len(restored.lost) == least]
        return sorted(fitting, key=_n_foreign)
    if refused:
        raise refused[0]
    known = sorted({MODEL_ARCH_NAMES[family.arch] for family in families})
    raise UnsupportedError(
        f"a GGUF file of the architecture `{arch}` does not go back to a directory",
        hint=f"those that do are {', '.join(known)}",
    )


def _n_foreign(restored: Restored) -> int:
    """Count the keys of a config that its class does not have: another class is meant, which reads them."""
    known = FIELDS.get(restored.config["model_type"], FIELDS["llama"])
    return sum(key not in known for key in restored.config)


def _classes(families: Sequence[Family], arch: str) -> Iterator[tuple[Family, str]]:
    for family in families:
        if MODEL_ARCH_NAMES[family.arch] == arch:
            yield from ((family, name) for name in family.hf_names if name in STORED_NAMES)


def _of_class(family: Family, class_name: str, given: Given, *, tied: bool) -> Restored:
    config = config_of(family, class_name, given, tied=tied)
    h = read_hyperparameters(config, where="the config")
    if family.counted is not None and not h.has(family.counted.key) and family.counted.is_of_all:
        h = h.replaced(**{family.counted.key: n_layers(h)})
    stored = stored_tensors(family, class_name, h, given.tensors, given.values)
    return Restored(family, config, stored, tuple(differences(family, config, given)))
