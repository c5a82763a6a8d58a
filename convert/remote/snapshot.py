"""A model that is elsewhere as a directory here: its small files as they are, a stand-in for each of the others.

The directory is of one version, the Hub's commit or what a store listed, and never changes; it is made beside its place
and then renamed, so that it is whole if it is there.
"""

from __future__ import annotations

import re
import tempfile
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

from convert.errors import CheckpointError
from convert.remote.listing import listed, pinned
from convert.remote.remote_file import in_parallel
from convert.remote.stand_in import StandIn, opened, root
from convert.shown import shown, shown_list

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from convert.remote.address import HubAddress

MAX_SMALL_NBYTES: Final = 64 << 20  # as json_file reads; the largest tokenizer.json in use is about 35 MB
_MAX_INNER_NBYTES: Final = 1 << 20
_WEIGHTS: Final = re.compile(
    r".*\.(safetensors|bin|pth?|ckpt|distcp|gguf|llamafile|h5|msgpack|onnx|onnx_data|npz|ot|tflite|zip|gz|tar)"
)
_SMALL: Final = re.compile(
    r".*\.(json|jinja|txt|model|tiktoken|py|md|v\d|ya?ml|vocab)|(licen[cs]e|notice|copying|use_policy)[^/]*",
    re.IGNORECASE,
)


def from_hub(address: HubAddress) -> Path:
    """Make or find the directory of a model on the Hub."""
    try:
        found = pinned(address.name, address.revision)
    except CheckpointError as error:
        if not address.is_bare:
            raise
        raise CheckpointError(f"there is no path {shown(address.name)}; {error.message}", hint=error.hint) from error
    place = root() / "hub" / f"models--{found.name.replace('/', '--')}"
    at = f"hf://{found.name}@{found.commit}"
    files = [(file.path, StandIn(f"{at}/{file.path}", file.nbytes, file.content)) for file in found.files]
    directory = _made(place / found.commit / found.name.rpartition("/")[2], files, commit=found.commit)
    if address.inside and not (directory / address.inside).exists():
        raise _not_inside(at, address.inside, [file.path for file in found.files])
    return directory / address.inside


def _not_inside(at: str, inside: str, names: Sequence[str]) -> CheckpointError:
    same = [name for name in names if PurePosixPath(name).suffix == PurePosixPath(inside).suffix]
    return CheckpointError(
        f"{shown(at)} has no {shown(inside)}", hint=f"it has {shown_list(same or list(names), most=8)}"
    )


def from_store(address: str) -> Path:
    """Make or find the directory of what a store has under an address."""
    files, inside = listed(address)
    version = sha256(repr(sorted(files, key=lambda file: file[0])).encode()).hexdigest()[:16]
    plain = address.partition("?")[0]  # a query is a signature, which is long, and for a time; it is in the version
    folder = plain.rpartition("/")[0] if inside else plain
    place = quote(folder, safe="")[-200:]
    name = folder.rstrip("/").rpartition("/")[2] or "model"
    return _made(root() / "other" / f"{place}@{version}" / name, files) / inside


@dataclass(frozen=True, slots=True)
class _Place:
    directory: Path

    def note(self, commit: str) -> None:
        """Leave the commit where `hf download --local-dir` does: huggingface_hub/_local_folder.py."""
        told = self.directory / ".cache" / "huggingface" / "download" / "config.json.metadata"
        told.parent.mkdir(parents=True)
        told.write_text(f"{commit}\n", encoding="ascii")

    def put(self, file: tuple[str, StandIn]) -> None:
        name, stand_in = file
        path = self.directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not is_small(name, stand_in.nbytes):
            stand_in.write(path)
            return
        data = bytearray(stand_in.nbytes)
        source = opened(stand_in)
        source.read_into(0, memoryview(data))
        path.write_bytes(data)


def is_small(name: str, nbytes: int) -> bool:
    """Whether a file is to be here as it is, by its name in the model and its length."""
    if _WEIGHTS.fullmatch(name):
        return False
    limit = _MAX_INNER_NBYTES if "/" in name or not _SMALL.fullmatch(name) else MAX_SMALL_NBYTES
    return nbytes <= limit


def _made(directory: Path, files: Iterable[tuple[str, StandIn]], *, commit: str | None = None) -> Path:
    if directory.is_dir():
        return directory
    directory.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".partial-", dir=directory.parent) as partial_directory:
        place = _Place(Path(partial_directory) / directory.name)
        place.directory.mkdir()
        if commit is not None:
            place.note(commit)
        in_parallel(place.put, [file for file in files if _is_inside(file[0])])
        try:
            place.directory.rename(directory)
        except OSError:
            if not directory.is_dir():  # another process was faster
                raise
    return directory


def _is_inside(name: str) -> bool:
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts and name not in ("", ".") and "\0" not in name
