"""BPE merges, in the spelling that GGUF has for them: the two parts with a space between."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from convert.tokenizer.files import TokenizerFiles

_SPACE: Final = chr(ord(" ") + 256)  # how byte-level BPE writes a space


def read_merges(files: TokenizerFiles) -> tuple[str, ...]:
    """Read the merges of tokenizer.json, or else of merges.txt; raises TokenizerError if they are malformed.

    Source: gguf-py/gguf/vocab.py, SpecialVocab @ 0c1e570.
    """
    model = (files.tokenizer_json or {}).get("model")
    merges = model.get("merges") if isinstance(model, dict) else None
    if merges:
        if not isinstance(merges, list):
            raise files.wrong("tokenizer.json", "model.merges", "a list")
        return tuple(_spelled(merge, files) for merge in merges)
    path = files.directory / "merges.txt"
    return _read_merges_txt(path.read_text(encoding="utf-8", errors="strict")) if path.is_file() else ()


def _spelled(merge: Any, files: TokenizerFiles) -> str:  # noqa: ANN401 - JSON
    if isinstance(merge, str):
        return merge
    if isinstance(merge, list) and len(merge) == 2 and all(isinstance(part, str) for part in merge):  # noqa: PLR2004
        left, right = merge
        return f"{left.replace(' ', _SPACE)} {right.replace(' ', _SPACE)}"
    raise files.wrong("tokenizer.json", "model.merges", "a list of pairs of tokens")


def _read_merges_txt(text: str) -> tuple[str, ...]:
    lines = text.split("\n")
    if lines[0].strip().startswith("#"):
        del lines[0]
    pairs = (line.strip().split(None, 3) for line in lines)
    return tuple(" ".join(pair) for pair in pairs if len(pair) == 2)  # noqa: PLR2004 - the rest is malformed
