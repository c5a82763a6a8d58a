"""A directory that looks like the checkpoint's to definitions and to transformers: links, and no weights."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pathlib import Path

    from convert.llama_cpp.front_end.request import Conversion

_WEIGHTS: Final = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".gguf", ".h5", ".msgpack", ".onnx")
_INDEX: Final = (".safetensors.index.json", ".bin.index.json")
_TOKENIZER: Final = ("tokenizer", "special_tokens", "added_tokens", "vocab", "merges", "chat_template", "spiece")


def stage(conversion: Conversion, root: Path) -> Path:
    """Make the directory in `root`, under the checkpoint's own name, which feeds the metadata."""
    staged = root / (conversion.directory.name or "model")
    staged.mkdir()
    for entry in sorted(conversion.directory.iterdir()):
        if _is_shown(entry, conversion):
            (staged / entry.name).symlink_to(entry.absolute())
    if conversion.tokenizer != conversion.directory:
        _replace_tokenizer(staged, conversion.tokenizer)
    if conversion.config is not None:
        (staged / "config.json").unlink(missing_ok=True)
        (staged / "config.json").write_text(json.dumps(conversion.config, indent=2), encoding="utf-8")
    return staged


def _is_shown(entry: Path, conversion: Conversion) -> bool:
    if entry.name in conversion.hidden_files:
        return False
    if entry.is_dir() or conversion.links_weights:
        return True
    return not entry.name.endswith((*_WEIGHTS, *_INDEX))


def _replace_tokenizer(staged: Path, directory: Path) -> None:
    for entry in staged.iterdir():
        if entry.name.startswith(_TOKENIZER):
            entry.unlink()
    for entry in directory.iterdir():
        if entry.name.startswith(_TOKENIZER):
            (staged / entry.name).symlink_to(entry.absolute())
