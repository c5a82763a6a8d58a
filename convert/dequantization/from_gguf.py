"""A GGUF file as a Hugging Face directory: what the families' tables, read from right to left, make of it.

    metadata ── architecture.back ──▶ config.json        tokenizer.* ── tokenizer.back ──▶ tokenizer files
    tensors  ── architecture.back ──▶ under the class's names, blocks decoded, each as the float that holds it exactly
    general.* ──▶ generation_config.json, the model card's front matter

What the directory would not give back, were it converted again, is a note.
"""

from __future__ import annotations

import tempfile
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from gguf import GGMLQuantizationType

from convert.architecture import FAMILIES
from convert.architecture.back import Restored, restored
from convert.authorship import card_of, generation_config_of
from convert.checkpoint import SourceFiles, StoredBlocks, StoredType, TensorSource, matrix_shape
from convert.checkpoint.views import OfOne
from convert.checkpoint.woven import WovenColumns, WovenRows
from convert.codec import row_nbytes
from convert.dequantization.side_files import SideFile, json_file
from convert.errors import ConvertError
from convert.gguf_file import encode_key_value, scale_name
from convert.model import Decoded, float_values, read_gguf_model, tensor_type
from convert.model.pooling import pooling_files
from convert.shown import shown, shown_list
from convert.tokenizer import read_vocabulary, vocabulary_metadata
from convert.tokenizer.back import stated_elsewhere, tokenizer_files

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from convert.checkpoint import Tensor
    from convert.model import GGUFModel

_FLOATS: Final = {
    GGMLQuantizationType.F32: StoredType.F32,
    GGMLQuantizationType.F16: StoredType.F16,
    GGMLQuantizationType.BF16: StoredType.BF16,
}
_EMBEDDINGS: Final = "token_embd.weight"
_OUTPUT: Final = "output.weight"
_MOST_NUMBERS: Final = 1 << 16  # of a tensor that is read before the plan: rotary factors
_STEP_NBYTES: Final = 1 << 22


@dataclass(frozen=True, slots=True)
class FromGGUF:
    """What the directory is made of.

    config: without its dtype. files: tokenizer and generation. front_matter: of the model card. types: of the file's
    tensors that are decoded, by the names of those that hold their values. notes: what is lost.
    """

    config: Mapping[str, Any]
    tensors: Mapping[str, Tensor]
    files: tuple[SideFile, ...]
    front_matter: Mapping[str, Any]
    types: Mapping[str, str]
    notes: tuple[str, ...]


def open_gguf(path: Path) -> FromGGUF:
    """Read a GGUF file, and put it into transformers' words.

    Raises CheckpointError for a broken file, UnsupportedError for what does not go back.
    """
    model = read_gguf_model(path)
    tensors = _all_as_floats(model)
    fitting = restored(FAMILIES, model.arch, model.values, tensors, _reader(model), tied=_is_tied(model))
    tried = ((found, *_tokenizer(model, found)) for found in fitting)
    found, files, beside, notes = min(tried, key=lambda item: len(item[-1]))
    config = {**found.config, **beside.pop("config.json", {})}
    generation = {**generation_config_of(model.values, config), **beside.pop("generation_config.json", {})}
    pooling = pooling_files(model.values, model.arch, n_values=config.get("hidden_size"))
    types = {name: kind for name, tensor in found.tensors.items() if (kind := _kinds(tensor)) is not None}
    return FromGGUF(
        config=config,
        tensors=found.tensors,
        files=(*files, *(SideFile(name, data) for name, data in pooling), json_file(_GENERATION, generation)),
        front_matter=card_of(model.values),
        types=types,
        notes=(*_lost(found.lost), *notes),
    )


_GENERATION: Final = "generation_config.json"


def _lost(lines: tuple[str, ...]) -> Iterator[str]:
    return (f"lost: {line}" for line in lines)


def _all_as_floats(model: GGUFModel) -> dict[str, Tensor]:
    """Give the tensors as floats, those that have a factor beside them multiplied by it."""
    stored = dict(model.tensors)
    factors = {name: stored[scale] for name in stored if name != (scale := scale_name(name)) and scale in stored}
    beside = {factor.name for factor in factors.values()}
    return {name: _as_floats(each, factors.get(name)) for name, each in model.tensors if name not in beside}


def _as_floats(tensor: Tensor, scale: Tensor | None) -> Tensor:
    """Give a float tensor as a checkpoint has it, another as the float32 that its blocks decode to."""
    stored = _FLOATS.get(tensor_type(tensor))
    if stored is None or scale is not None:
        return Decoded(tensor, scale)
    assert isinstance(tensor, StoredBlocks)  # noqa: S101 - of a file
    return TensorSource(tensor.name, tensor.path, tensor.offset, stored, tensor.shape)


def _kinds(tensor: Tensor) -> str | None:
    """Name the types of blocks that a tensor's values are decoded from."""
    kinds = sorted({tensor_type(leaf.base).name for leaf in _leaves(tensor) if isinstance(leaf, Decoded)})
    return " and ".join(kinds) or None


def _leaves(tensor: Tensor) -> Iterator[Tensor]:
    if isinstance(tensor, OfOne):
        yield from _leaves(tensor.base)
    elif isinstance(tensor, (WovenRows, WovenColumns)):
        for part in tensor.parts:
            yield from _leaves(part)
    else:
        yield tensor


def _reader(model: GGUFModel) -> Callable[[str], tuple[float, ...]]:
    tensors = dict(model.tensors)

    def numbers(name: str) -> tuple[float, ...]:
        n_rows, _ = matrix_shape(tensors[name].shape)
        assert n_rows < _MOST_NUMBERS  # noqa: S101 - a frequency for each pair of a head
        with closing(SourceFiles()) as files:
            return tuple(float(str(value)) for value in float_values(tensors[name], files, range(n_rows)).reshape(-1))

    return numbers


def _is_tied(model: GGUFModel) -> bool:
    """Whether the output matrix is the embeddings: none, or the same bytes right behind, as some families have it."""
    names, tensors = [name for name, _ in model.tensors], dict(model.tensors)
    if _OUTPUT not in tensors or _EMBEDDINGS not in tensors:
        return _OUTPUT not in tensors
    embeddings, output = tensors[_EMBEDDINGS], tensors[_OUTPUT]
    if names.index(_OUTPUT) != names.index(_EMBEDDINGS) + 1 or embeddings.shape != output.shape:
        return False
    return embeddings.dtype == output.dtype and _have_same_bytes(embeddings, output)


def _have_same_bytes(one: Tensor, other: Tensor) -> bool:
    n_rows, n_cols = matrix_shape(one.shape)
    width = row_nbytes(tensor_type(one), n_cols)
    step = max(_STEP_NBYTES // max(width, 1), 1)
    with closing(SourceFiles()) as files:
        for first in range(0, n_rows, step):
            here, there = (np.empty((min(step, n_rows - first), width), np.uint8) for _ in range(2))
            one.read_rows(files, first, here)
            other.read_rows(files, first, there)
            if not np.array_equal(here, there):
                return False
    return True


def _tokenizer(model: GGUFModel, found: Restored) -> tuple[list[SideFile], dict[str, dict[str, Any]], tuple[str, ...]]:
    """Make the tokenizer's files, with tokenizer.json if what is read of them then is the same; and notes.

    Gives also what belongs into other files.
    """
    rule, values, tried = found.family.tokenizer, model.values, []
    beside = stated_elsewhere(values, rule)
    config = {**found.config, **beside.get("config.json", {})}
    for with_json in (True, False):
        try:
            files = tokenizer_files(values, rule, with_json=with_json)
            lost = tuple(_lost_tokens(model, replace(found, config=config), files))
        except ConvertError as error:
            return [], beside, (f"no tokenizer: {error.message}; take its files from the original model",)
        tried.append((files, lost))
        if not lost:
            break
    files, lost = min(tried, key=lambda item: len(item[1]))
    return [SideFile(name, data) for name, data in files.items()], beside, tuple(_lost(lost))


def _lost_tokens(model: GGUFModel, found: Restored, files: Mapping[str, bytes]) -> Iterator[str]:
    """Read the files as a checkpoint's are read, and name what the GGUF file would then say otherwise."""
    with tempfile.TemporaryDirectory() as folder:
        for name, data in files.items():
            (Path(folder) / name).write_bytes(data)
        vocabulary = read_vocabulary(
            Path(folder),
            vocab_size=found.config.get("vocab_size"),
            rule=found.family.tokenizer,
            model_config=found.config,
        )
    made = {entry.key: encode_key_value(entry) for entry in vocabulary_metadata(vocabulary)}
    stated = {entry.key: raw for entry, raw in model.metadata if entry.key.startswith("tokenizer.")}
    differing = [key for key in {**stated, **made} if made.get(key) != stated.get(key)]
    for key in differing:
        gives = "something else" if key in made else "nothing"
        yield f"`{key}`: the file has {shown(model.values.get(key))}, the files made of it give {gives}"
    own = {row.key for row in found.family.metadata}
    if not differing and [key for key in made if key not in own] != [key for key in stated if key not in own]:
        yield f"the order of the tokenizer's keys: {shown_list([*stated], most=3)}"
