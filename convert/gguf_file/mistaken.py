"""What people pass where a GGUF file is wanted: it is nearly always one of a few things, and each has a way out."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from convert.errors import CheckpointError, ConvertError, Remedy
from convert.shown import nearest, shown, shown_list

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

HEAD_NBYTES: Final = 1024
_LATER_PART: Final = re.compile(r"-(?!00001-)\d{5}-of-\d{5}\.gguf$")
_AGAIN: Final = "download it again: `hf download`, or a link with `/resolve/` in it"
_OLD: Final = "it is older than GGUF (2023): get a GGUF of the model, or convert its checkpoint"


@dataclass(frozen=True, slots=True)
class _Kind:
    """Something else than a GGUF: how its first bytes are told, what it is, what to do."""

    fits: Callable[[bytes], bool]
    what: str
    hint: str | None = None
    remedies: tuple[Remedy, ...] = ()


def _starts(*magics: bytes) -> Callable[[bytes], bool]:
    return lambda head: head.startswith(magics)


_KINDS: Final = (
    _Kind(lambda head: not head, "is empty", _AGAIN),
    _Kind(
        _starts(b"version https://git-lfs"),
        "is a git-lfs pointer, not the file itself",
        "run `git lfs pull` where it lies, or `hf download`",
    ),
    _Kind(lambda head: head.lstrip()[:1] == b"<", "is an HTML or XML page, not the file itself", _AGAIN),
    # The magics of llama.cpp before August 2023, as little-endian numbers: ggjt, ggmf, ggml, and LoRA's ggla.
    _Kind(_starts(b"tjgg"), "is in the old format GGJT", _OLD, (Remedy.QUANTIZE_OLD,)),
    _Kind(_starts(b"fmgg"), "is in the old format GGMF", _OLD, (Remedy.QUANTIZE_OLD,)),
    _Kind(_starts(b"lmgg"), "is in the old format GGML", _OLD, (Remedy.QUANTIZE_OLD,)),
    _Kind(_starts(b"algg"), "is an adapter in the old format GGLA", _OLD),
    _Kind(
        lambda head: head[8:9] == b"{" and head[6:8] == b"\0\0",
        "is a safetensors file",
        remedies=(Remedy.CONVERT_CHECKPOINT,),
    ),
    _Kind(_starts(b"PK\3\4", b"\x80\2"), "is a PyTorch file, or an archive", remedies=(Remedy.CONVERT_CHECKPOINT,)),
    _Kind(_starts(b"\x1f\x8b", b"\xfd7zXZ", b"(\xb5/\xfd", b"7z\xbc\xaf", b"BZh"), "is compressed", "unpack it first"),
    _Kind(_starts(b"{", b"["), "is JSON: a configuration, an index, or a server's error message", _AGAIN),
    _Kind(lambda head: not any(head), "begins with zeros: its download has not ended", _AGAIN),
)


def not_a_gguf(path: Path, head: bytes) -> ConvertError:
    """Make the error for a file that does not begin as a GGUF does. head: its first bytes, up to HEAD_NBYTES."""
    for kind in _KINDS:
        if kind.fits(head):
            return CheckpointError(
                f"{shown(path)} {kind.what}, wanted a GGUF file", hint=kind.hint, remedies=kind.remedies
            )
    return CheckpointError(f"{shown(path)} is not a GGUF file: it starts with {head[:4]!r}, not {b'GGUF'!r}")


def no_file(path: Path) -> ConvertError:
    """Make the error for a path that is no file, where a GGUF file is wanted."""
    if not path.exists():
        return CheckpointError(f"{shown(path)} does not exist", hint=nearest(path))
    if not path.is_dir():
        return CheckpointError(f"{shown(path)} is a pipe or a device, wanted a GGUF file")
    what = f"{shown(path)} is a directory, wanted a GGUF file"
    if inside := sorted(entry.name for entry in path.glob("*.gguf") if not _LATER_PART.search(entry.name)):
        return CheckpointError(what, hint=f"name one in it: {shown_list(inside)}")
    if (path / "config.json").exists():
        return CheckpointError(f"{what}: it holds a checkpoint", remedies=(Remedy.CONVERT_CHECKPOINT,))
    return CheckpointError(what)
