"""Which files are wanted, as a value: where, of which types, called what."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Final

from convert.checkpoint.index import cached_name
from convert.errors import OutputError, Remedy, UsageError
from convert.plan.styles import STYLES
from convert.quant_mix import FILE_TYPES, NO_OPTIONS, FileType, QuantizeOptions, find_file_types, in_words
from convert.shown import shown

if TYPE_CHECKING:
    from collections.abc import Iterable

    from convert.plan.split import SplitRequest

PathLike = str | os.PathLike[str]

DEFAULT_TYPES: Final = "f16,q4_0,q4_1,q5_0,q5_1,q8_0"
_FILE_SUFFIXES: Final = frozenset({".gguf", ".safetensors", ".bin", ".pt", ".pth"})
_SUFFIX: Final = re.compile(r"((-00001-of-\d{5,})?\.gguf|\.llamafile|(\.ggmlv\d(\.\w+)?)?\.bin)$", re.IGNORECASE)
_TYPE_SUFFIX: Final = re.compile(r"[-._](f32|f16|bf16|fp16|fp32)$", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class OutputRequest:
    """GGUF files to make: `OUTDIR/NAME-TYPE.gguf` for each type.

    types: such as `"f16,q8_0"` or `["f16", "q8_0"]`, in any case. name: the files' base name, by default the model's.
    discard_f16: leave the F16 file out. options: of the quantized files, as `quantize_options` reads them.
    mmproj, mtp: the type of a file of what is not text, and of one of the layers that predict further tokens.
    style: whose habit the names follow, a row of `STYLES`. owner: whose the model is, for habits that say it.
    split: the files, but these two, are in parts, `OUTDIR/NAME-TYPE/NAME-TYPE-00001-of-00003.gguf` and so on.
    """

    outdir: PathLike
    types: str | Iterable[str | FileType] = DEFAULT_TYPES
    name: str | None = None
    discard_f16: bool = False
    options: QuantizeOptions = NO_OPTIONS
    mmproj: str | FileType | None = None
    mtp: str | FileType | None = None
    style: str = "plain"
    owner: str | None = None
    split: SplitRequest | None = None

    def paths(self, own_name: str) -> dict[FileType, Path]:
        """Give each type its path. own_name: the model's.

        Raises UsageError for a type that is not known, none at all, or a name that is no file's; OutputError for what
        is no directory.
        """
        types = [kind for kind in parse_types(self.types) if not (self.discard_f16 and kind is FILE_TYPES["F16"])]
        if not types:
            raise _no_types()
        require_directory(self.outdir)
        return {kind: self.path(own_name, kind.name) for kind in types}

    def path(self, own_name: str, kind: str, prefix: str = "") -> Path:
        """Name the file of one type. prefix: what kind of file it is, as upstream's names begin."""
        name = own_name if self.name is None else self.name
        if not name or name in (".", "..") or "/" in name or "\0" in name:
            raise UsageError(f"`{name}` cannot be the base name of files", remedies=(Remedy.GIVE_NAME,))
        if self.style not in STYLES:
            raise UsageError(f"unknown style {shown(self.style)}", hint=f"known are {', '.join(STYLES)}")
        important = self.options.importance is not None
        owner = self.owner if self.name is None else None
        return Path(self.outdir) / STYLES[self.style].file_name(
            name, kind, role=prefix, owner=owner, important=important
        )


def directory_owner(directory: Path) -> str | None:
    """Give the owner of a model in the Hub's cache."""
    return (cached_name(directory) or "").rpartition("/")[0] or None


def directory_name(directory: Path) -> str:
    """Name a model after its directory, or after its repository where that is a snapshot in the Hub's cache."""
    return (cached_name(directory) or "").rpartition("/")[2] or directory.name


def gguf_name(path: PathLike) -> str:
    """Name a model after its GGUF file, or the first of its parts, without the float type that such names end with.

    Only `.gguf`, `.llamafile` and `.bin`, with `.ggmlv3.q4_0` in front, are suffixes: other dots belong to the name, as
    in `Llama-3.2-1B`.
    """
    return _TYPE_SUFFIX.sub("", _SUFFIX.sub("", Path(path).name))


def require_directory(path: PathLike) -> None:
    """Raise OutputError for what cannot be a directory of outputs: it or one above is a file, or called like one."""
    place = Path(path).absolute()
    nearest = next((parent for parent in (place, *place.parents) if os.path.lexists(parent)), place)
    if not nearest.is_dir():
        fault = f"{shown(nearest)} is {'a file' if nearest.exists() else 'a link that leads nowhere'}"
    elif not place.is_dir() and place.suffix.lower() in _FILE_SUFFIXES:
        fault = f"{shown(place)} is called like a file"
    else:
        return
    raise OutputError(f"{fault}, wanted a directory", remedies=(Remedy.NAME_DIRECTORY,))


def require_file(path: PathLike, *, such_as: str) -> Path:
    """Give the path of a file to write. Raises OutputError for a directory, or what is written like one (`out/`)."""
    if Path(path).is_dir() or os.fspath(path).endswith(os.sep):
        raise OutputError(
            f"{shown(os.fspath(path))} is a directory, wanted a file",
            hint=f"name one, such as {shown(Path(path) / such_as)}",
        )
    return Path(path)


def parse_types(text: str | Iterable[str | FileType]) -> tuple[FileType, ...]:
    """Read types such as `"f16,q8_0"` or `["f16", "q8_0"]`, in any case, without repeats; also `all` and `standard`.

    Raises UsageError that says what is nearest, or lists the known types.
    """
    names = text.split(",") if isinstance(text, str) else text
    found = ((name,) if isinstance(name, FileType) else find_file_types(name) for name in names)
    types = tuple(dict.fromkeys(chain.from_iterable(found)))
    if not types:
        raise _no_types()
    return types


def parse_type(kind: str | FileType) -> FileType:
    """Read one type. Raises UsageError for none that is known, or a name of several."""
    found = parse_types([kind])
    if len(found) != 1:
        raise UsageError(f"`{kind}` is {len(found)} types, and one file is to be made")
    return found[0]


def _no_types() -> UsageError:
    return UsageError("no output type is left", hint=f"known are {in_words(FILE_TYPES.values())}")
