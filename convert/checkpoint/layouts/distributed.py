"""torch's distributed checkpoints: `.metadata`, and pieces of tensors in `*.distcp`, as FSDP's processes save them.

accelerate and transformers' Trainer save them in `pytorch_model_fsdp_0`, others in a directory of any name; config.json
and the tokenizer are looked for in MODEL itself. Each piece is a file of `torch.save` inside the file, and is read
where it lies. Names are the model's in training, its optimizer's may be among them; Megatron's are not translated.
"""

from __future__ import annotations

import io
import re
from collections import defaultdict
from dataclasses import replace
from functools import partial
from os.path import commonprefix
from typing import TYPE_CHECKING, Any, BinaryIO, Final, cast

from convert.checkpoint.index import lacks_files
from convert.checkpoint.json_file import read_json
from convert.checkpoint.layouts.layout import Found, Laid, Layout, in_order
from convert.checkpoint.layouts.same_values import hold_the_same
from convert.checkpoint.pieces import Pieced
from convert.checkpoint.regular_file import expect, file_nbytes, open_regular
from convert.checkpoint.saved_pieces import SavedPiece, SavedTensor, read_saved
from convert.checkpoint.torch_archive import archive_in
from convert.checkpoint.torch_file import STORED_TYPES, read_torch_tensor
from convert.checkpoint.wrapped_names import unwrap_names
from convert.errors import CheckpointError, ConfigError, Remedy, UnsupportedError
from convert.shown import shown, shown_list

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from convert.checkpoint.source import StoredType, Tensor, TensorSource

# What is saved beside a model, by the first words of its names: torch's tutorials, torchtitan, Lightning.
_NOT_MODEL: Final = re.compile(
    r"(?:app\.)?(?:optim|optimizers?|optimizer_states?|lr_schedulers?|train_state|dataloader)\."
)
_HEAD, _EMBEDDINGS = "lm_head.weight", "model.embed_tokens.weight"
_END_NBYTES: Final = 1 << 12
_MEGATRON: Final = re.compile(
    r"(?:.*\.)?(?:embedding\.word_embeddings|decoder\.layers\..*linear_(?:qkv|proj|fc[12]))\..*"
)
_MEGATRON_HINT: Final = "export it to Hugging Face's form: Megatron Bridge's `export_ckpt`, NeMo's `llm.export_ckpt`"


class _Part(io.RawIOBase):
    """Some bytes of an open file, as a file of their own."""

    def __init__(self, file: BinaryIO, start: int, nbytes: int) -> None:
        self._file, self._start, self._nbytes, self._position = file, start, nbytes, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        begin = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._nbytes}[whence]
        if begin + offset < 0:
            raise ValueError("a place before the start")
        self._position = begin + offset
        return self._position

    def readinto(self, buffer: Any) -> int:  # noqa: ANN401 - whatever has a buffer
        view = memoryview(buffer)
        count = max(min(len(view), self._nbytes - self._position), 0)
        self._file.seek(self._start + self._position)
        data = self._file.read(count)
        view[: len(data)] = data
        self._position += len(data)
        return len(data)


def open_distributed(found: Found) -> Laid:
    """Read `.metadata`, and where in the files the pieces of the model's tensors lie."""
    saved = read_saved(found.beside)
    other = [name for name in saved if _NOT_MODEL.match(name)]
    model = {name: tensor for name, tensor in saved.items() if not _NOT_MODEL.match(name)}
    if not model:
        raise CheckpointError(f"{shown(found.beside)} tells of no model's tensors, of {len(saved)} altogether")
    if any(map(_MEGATRON.fullmatch, model)):
        raise UnsupportedError(f"{shown(found.beside)} has Megatron's names, which are not translated: "
                               f"{shown_list(list(model), most=3)}", hint=_MEGATRON_HINT)  # fmt: skip
    outer = commonprefix([tensor.keys[:-1] for tensor in model.values()])  # noqa: RUF071 - key by key, of tuples
    plain, notes = unwrap_names({".".join(tensor.keys[len(outer) :]): tensor for tensor in model.values()})
    notes += (f"took the tensors under {shown('.'.join(outer))}",) if outer else ()
    notes += (f"passes over what is no model's: {shown_list(other, most=3)}",) if other else ()
    sources, config = _sources(plain, found.beside.parent), _config(found)
    may_tie = not isinstance(config, ConfigError) and config.get("tie_word_embeddings") is True
    if may_tie and _is_tied(_arrange(sources, saved=plain)):
        sources = {name: source for name, source in sources.items() if name.rpartition("/")[2] != _HEAD}
        plain = {name: tensor for name, tensor in plain.items() if name != _HEAD}
    return Laid(config, sources, partial(_arrange, saved=plain), notes)


def _is_tied(tensors: Mapping[str, Tensor]) -> bool:
    """Whether the output is the embeddings once more, which transformers does not save."""
    head, embeddings = tensors.get(_HEAD), tensors.get(_EMBEDDINGS)
    return head is not None and embeddings is not None and hold_the_same(head, embeddings)


def _config(found: Found) -> Mapping[str, Any] | ConfigError:
    path = found.stated.config or found.directory / "config.json"
    if path.is_file():
        return read_json(path)
    hint = "put config.json and the tokenizer's files of the model that was trained there, or say where they are"
    return ConfigError(f"{shown(path)} is missing", hint=hint, remedies=(Remedy.GIVE_CONFIG,))


def _stored_name(name: str, number: int, tensor: SavedTensor) -> str:
    return name if len(tensor.pieces) == 1 else f"{number}/{name}"


def _sources(plain: Mapping[str, SavedTensor], directory: Path) -> dict[str, TensorSource]:
    """Find the bytes of every piece, a file after the other."""
    by_file: dict[str, list[tuple[str, SavedPiece, StoredType | None]]] = defaultdict(list)
    for name, tensor in plain.items():
        for number, piece in enumerate(tensor.pieces):
            dtype = STORED_TYPES.get(tensor.dtype)
            by_file[piece.file].append((_stored_name(name, number, tensor), piece, dtype))
    if missing := [file for file in sorted(by_file) if not (directory / file).is_file()]:
        raise lacks_files(directory, missing, len(by_file), wanted_by="`.metadata`")
    found = {name: source for file in sorted(by_file) for name, source in _in_file(directory / file, by_file[file])}
    names = [_stored_name(name, number, tensor) for name, tensor in plain.items()
             for number in range(len(tensor.pieces))]  # fmt: skip
    return {name: found[name] for name in names}


def _in_file(path: Path, wanted: list[tuple[str, SavedPiece, StoredType | None]]) -> Iterator[tuple[str, TensorSource]]:
    """Yield where the tensors of one file lie. Pieces that are pickled alike lie alike, so torch reads few of them."""
    known: dict[tuple[bytes, tuple[tuple[str, tuple[int, int]], ...]], TensorSource] = {}
    with open_regular(path) as file:
        nbytes = file_nbytes(file)
        expect(file, (place for _, piece, _ in wanted if piece.start < nbytes for place in _ends(piece)))
        for name, piece, dtype in wanted:
            where = f"tensor {shown(name)} in {shown(path)}"
            if piece.start + piece.nbytes > nbytes:
                raise CheckpointError(
                    f"{where} is said to reach to byte {piece.start + piece.nbytes}, the file has {nbytes}"
                )
            part = cast("BinaryIO", io.BufferedReader(_Part(file, piece.start, piece.nbytes), _END_NBYTES))
            archive = archive_in(part, piece.nbytes, path)
            key = archive.pickle, tuple(archive.records.items())
            if (source := known.get(key)) is None:
                part.seek(0)
                known[key] = source = read_torch_tensor(part, archive, name, path)
            if (source.shape, source.dtype) != (piece.shape, dtype):
                said = f"{piece.shape} and {'another type' if dtype is None else dtype.value}"
                raise CheckpointError(f"{where} is {source.shape} and {source.dtype.value}, `.metadata` says {said}")
            yield name, replace(source, name=name, offset=piece.start + source.offset)


def _ends(piece: SavedPiece) -> Iterator[tuple[int, int]]:
    """Give what of a piece is read to find its tensor: the first bytes, and the last."""
    yield piece.start, min(piece.nbytes, _END_NBYTES)
    if piece.nbytes > _END_NBYTES:
        yield piece.start + piece.nbytes - _END_NBYTES, _END_NBYTES


def _arrange(tensors: Mapping[str, Tensor], *, saved: Mapping[str, SavedTensor]) -> dict[str, Tensor]:
    """Give whole tensors; what was decoded on the way is whole."""
    return in_order(_whole(name, tensor, tensors) for name, tensor in saved.items())


def _whole(name: str, saved: SavedTensor, tensors: Mapping[str, Tensor]) -> Tensor:
    if len(saved.pieces) == 1:
        return tensors[name]
    parts = tuple(tensors[_stored_name(name, number, saved)] for number in range(len(saved.pieces)))
    return Pieced(name, saved.shape, parts, tuple(piece.offsets for piece in saved.pieces))


DISTRIBUTED: Final = Layout(
    "torch's distributed checkpoints",
    re.compile(r".*\.distcp"),
    ".metadata",
    open_distributed,
    inside=re.compile(r"pytorch_model_fsdp_\d+|weights|dist_ckpt|model"),
)
