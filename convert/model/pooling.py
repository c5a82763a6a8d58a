"""What a sentence-transformers checkpoint does with a text's last states: `modules.json` and its pooling's config.

Source: conversion/base.py, TextModel._try_set_pooling_type; conversion/qwen.py, Qwen3Model @ 0c1e570.
The reference asks this of some classes only; llama.cpp reads the key for all, and embeds wrongly without it.
"""

from __future__ import annotations

import json
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, Final

from gguf import GGUFValueType, Keys, PoolingType

from convert.checkpoint import read_json
from convert.errors import CheckpointError, UnsupportedError
from convert.gguf_file import KeyValue

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_FILE: Final = "modules.json"
_KNOWN: Final = ("Transformer", "Pooling", "Normalize")
_FLAGS: Final = {
    "pooling_mode_mean_tokens": PoolingType.MEAN,
    "pooling_mode_cls_token": PoolingType.CLS,
    "pooling_mode_lasttoken": PoolingType.LAST,
}
_MODES: Final = {"mean": PoolingType.MEAN, "cls": PoolingType.CLS, "lasttoken": PoolingType.LAST}


def pooling_entries(directory: Path, arch: str) -> dict[str, KeyValue]:
    """Give the entry of the pooling type, by key; none where the checkpoint is no embedding model.

    Raises CheckpointError for a broken file, UnsupportedError for modules or pooling that are not written.
    """
    if arch == "qwen3" and "qwen3-reranker" in directory.name.lower():
        raise UnsupportedError(f"`{directory.name}` is a reranker, whose head is made of two tokens' rows")
    if not (directory / _FILE).is_file():
        return {}
    modules = [module for module in read_json(directory / _FILE, top=list) if isinstance(module, dict)]
    for kind in (str(module.get("type")) for module in modules):
        if not kind.endswith(_KNOWN):
            raise UnsupportedError(f"`{_FILE}` has a module of the type `{kind}`")
    path = next((module.get("path") for module in modules if str(module.get("type")).endswith("Pooling")), None)
    if path is None:
        return {}
    if not isinstance(path, str) or PurePath(path).is_absolute() or ".." in PurePath(path).parts:
        raise CheckpointError(
            f"`{_FILE}` says that the pooling's config lies in {path!r:.80}, wanted a folder beside it"
        )
    key = Keys.LLM.POOLING_TYPE.format(arch=arch)
    return {key: KeyValue(key, int(_pooling(read_json(directory / path / "config.json"))), GGUFValueType.UINT32)}


def pooling_files(values: Mapping[str, Any], arch: str, *, n_values: int | None) -> list[tuple[str, bytes]]:
    """Give the files that say a file's pooling type, as sentence-transformers has them; none where there is none.

    n_values: of an embedding.
    """
    kind = values.get(Keys.LLM.POOLING_TYPE.format(arch=arch))
    flag = next((flag for flag, of in _FLAGS.items() if of == kind), None)
    if flag is None:
        return []
    modules = [
        {"idx": index, "name": str(index), "path": path, "type": f"sentence_transformers.models.{name}"}
        for index, (path, name) in enumerate((("", "Transformer"), ("1_Pooling", "Pooling")))
    ]
    pooling = {"word_embedding_dimension": n_values, **{name: name == flag for name in _FLAGS}}
    return [(_FILE, json.dumps(modules, indent=2).encode()), ("1_Pooling/config.json", json.dumps(pooling).encode())]


def _pooling(config: Mapping[str, Any]) -> PoolingType:
    found = next(
        (kind for flag, kind in _FLAGS.items() if config.get(flag)), _MODES.get(str(config.get("pooling_mode")))
    )
    if found is None:
        raise UnsupportedError("the pooling is none of mean, cls and lasttoken")
    return found
