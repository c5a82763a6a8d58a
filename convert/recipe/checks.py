"""Whether what a recipe asks for can be read, and lies where it says; as the commands would find out, but before."""

from __future__ import annotations

import glob
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from convert.adapter import parse_merge
from convert.plan import parse_type, parse_types
from convert.plan.split import parse_size
from convert.quant_mix.options import parse_layers, parse_override, parse_tensor_rule, parse_tensor_type
from convert.recipe.asked import INPUT_PLACES, is_place
from convert.verify import parse_limit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from convert.recipe.asked import Asked

_PARSERS: Final[Mapping[str, Callable[[str], object]]] = {
    "types": parse_types,
    "type": parse_type,
    "mmproj": parse_type,
    "mtp": parse_type,
    "merge": parse_merge,
    "tensor-type": parse_tensor_rule,
    "output-tensor-type": parse_tensor_type,
    "token-embedding-type": parse_tensor_type,
    "prune-layers": parse_layers,
    "override-kv": parse_override,
    "max-memory": parse_size,
    "max-shard-size": parse_size,
    "split-max-size": parse_size,
    "logits-budget": parse_size,
    "max-divergence": parse_limit,
}
_INPUTS: Final = (*INPUT_PLACES, "against", "directory", "file", "files", "first", "models")

_REPOSITORIES: Final = ("push-to-hub", "repository", "repo")


def check_words(words: Mapping[str, object]) -> None:
    """Raise the UsageError that the command would raise for a word."""
    for name, value in words.items():
        if (parse := _PARSERS.get(name)) is not None:
            for word in _listed(value):
                parse(str(word))


def repositories(asked: Asked) -> Iterator[tuple[str, str]]:
    """Give each option that names a repository of the Hub, and the name."""
    yield from ((name, str(asked.options[name])) for name in _REPOSITORIES if asked.options.get(name))


def missing_inputs(asked: Asked, made: Sequence[Path]) -> Iterator[tuple[str, Path]]:
    """Give each option and path that is not there. made: what earlier steps write: what lies in it may come to be."""
    for name in _INPUTS:
        for word in _listed(asked.options.get(name)):
            path = parse_merge(word).path if name == "merge" else Path(str(word))
            is_there = path.exists() or bool(glob.glob(str(path)))  # noqa: PTH207 - a pattern, where it is one
            if is_place(word) and not is_there and not any(path.is_relative_to(place) for place in made):
                yield name, path


def _listed(value: Any) -> list[Any]:  # noqa: ANN401 - whatever an option holds
    return list(value) if isinstance(value, (list, tuple)) else [] if value is None else [value]
