"""The small files of a model directory: config.json mended, tokenizer, templates, license and code as they are.

They are plain bytes, held in the plan, so that a dry run counts them and a second run compares them.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from convert.checkpoint.index import require_inside
from convert.checkpoint.packed import is_mlx
from convert.checkpoint.regular_file import file_nbytes, open_regular, refuse_lfs_pointer
from convert.checkpoint.source import TORCH_NAMES
from convert.errors import CheckpointError
from convert.shown import shown

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from convert.checkpoint import StoredType

MAX_NBYTES: Final = 128 << 20  # of all together: they are held in memory; a large tokenizer.json is about 35 MB

_COPIED_SUFFIXES: Final = frozenset({".json", ".jinja", ".txt", ".model", ".tiktoken", ".py", ".v3", ".v7"})
_COPIED_NAMES: Final = re.compile(r"(licen[cs]e|notice|copying|use_policy|readme_license).*", re.IGNORECASE)
# Written anew, or about the packed weights, another's training, or an adapter.
_LEFT: Final = re.compile(
    r"config\.json|.*\.index\.json|quant(ize)?_config\.json|hf_quant_config\.json|quantization_config\.json"
    r"|adapter_.*|trainer_state\.json|training_args.*|.*_results\.json|requirements.*\.txt|params\.json|recipe\..*"
)
_EXPECTED: Final = re.compile(
    r"config\.json|README\.md|.*\.index\.json|.*\.(safetensors|bin|pth?|ckpt)|.*quant.*\.json"
)
_TEMPLATES: Final = "additional_chat_templates"  # a folder of *.jinja (transformers/utils/hub.py, CHAT_TEMPLATE_DIR)
_TOKENIZER_FILE: Final = re.compile(
    r"tokenizer.*|special_tokens_map\.json|added_tokens\.json|vocab\..*|merges\.txt|spiece\.model|.*\.tiktoken"
    r"|chat_template\..*|additional_chat_templates/.*"
)
_QUANTIZATION_KEYS: Final = ("quantization_config", "compression_config", "_pre_quantization_dtype")
_DTYPE_KEYS: Final = ("dtype", "torch_dtype")


@dataclass(frozen=True, slots=True)
class SideFile:
    """A small file to be. name: its path in the directory."""

    name: str
    data: bytes


def copied_files(directory: Path, tokenizer: Path | None = None) -> tuple[list[SideFile], list[str]]:
    """Read what is copied as it is; and name the files and folders that are left behind, and not made anew.

    tokenizer: another directory whose tokenizer files replace the model's.

    Raises CheckpointError for a link out of the checkpoint, a file that cannot be read, or over 128 MB in all.
    """
    chosen = {path.relative_to(directory).as_posix(): path for path in _candidates(directory)}
    taken = {name: path for name, path in chosen.items() if _is_copied(path.name)}
    left = [name for name in chosen if name not in taken and not _EXPECTED.fullmatch(name)]
    left += sorted(f"{path.name}/" for path in directory.iterdir() if path.is_dir() and _is_told(path.name))
    if tokenizer is not None:
        files = {path.relative_to(tokenizer).as_posix(): path for path in _candidates(tokenizer)}
        taken = {name: path for name, path in taken.items() if not _TOKENIZER_FILE.fullmatch(name)}
        taken |= {name: path for name, path in files.items() if _TOKENIZER_FILE.fullmatch(name)}
    copied, room = [], MAX_NBYTES
    for name, path in taken.items():
        require_inside(directory if path.is_relative_to(directory) else tokenizer or directory, path)
        copied.append(SideFile(name, read_bounded(path, room)))
        room -= len(copied[-1].data)
    return copied, left


def _candidates(directory: Path) -> Iterator[Path]:
    for folder in (directory, directory / _TEMPLATES):
        if folder.is_dir():
            yield from sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))


def _is_copied(name: str) -> bool:
    if _LEFT.fullmatch(name):
        return False
    return f".{name.rpartition('.')[2]}" in _COPIED_SUFFIXES or _COPIED_NAMES.fullmatch(name) is not None


def _is_told(folder: str) -> bool:
    return folder not in (_TEMPLATES, "__pycache__") and not folder.startswith(".")


def read_bounded(path: Path, max_nbytes: int = MAX_NBYTES) -> bytes:
    """Read a small file whole. Raises CheckpointError if it is longer, not a regular file, or a git-lfs pointer."""
    with open_regular(path) as file:
        if file_nbytes(file) > max_nbytes:
            raise CheckpointError(f"{shown(path)} and the other files to copy have over {MAX_NBYTES} bytes")
        data = file.read(max_nbytes)
    refuse_lfs_pointer(data, path)
    return data


def mended_config(
    config: Mapping[str, Any], dtype: StoredType, *, vocab_size: int | None = None, unties: bool = False
) -> SideFile:
    """Write `config.json` as that of a plain checkpoint: no quantization, and the dtype in the spelling it uses.

    Sections of a part of the model (`text_config` and the like) are mended too. vocab_size: if an adapter resized it.
    unties: an adapter gave the output matrix weights of its own.
    """
    mended = _mended(config, TORCH_NAMES[dtype])
    if not any(key in mended for key in _DTYPE_KEYS):
        mended["torch_dtype"] = TORCH_NAMES[dtype]  # every transformers reads this spelling
    if vocab_size is not None:
        section = mended if "vocab_size" in mended else mended.get("text_config", mended)
        section["vocab_size"] = vocab_size
    if unties:
        mended["tie_word_embeddings"] = False
    return json_file("config.json", mended)


def _mended(section: Mapping[str, Any], dtype: str) -> dict[str, Any]:
    mended: dict[str, Any] = {}
    for key, value in section.items():
        if key in _DTYPE_KEYS:
            mended[key] = dtype
        elif key not in _QUANTIZATION_KEYS and not (key == "quantization" and is_mlx(value)):
            mended[key] = _mended(value, dtype) if isinstance(value, dict) and key.endswith("_config") else value
    return mended


def json_file(name: str, value: object) -> SideFile:
    """Write JSON as transformers writes its configs."""
    return SideFile(name, (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode())
