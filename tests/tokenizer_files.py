"""Small tokenizer files of our own, model directories around real ones, and the vocabulary that is made of them."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import gguf

from convert.tokenizer import LLAMA_TOKENIZER, TokenizerRule, read_vocabulary, vocabulary_metadata

if TYPE_CHECKING:
    from pathlib import Path

    from reference import Reference

    from convert.gguf_file import KeyValue


def write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value), encoding="utf-8")


def edit_json(path: Path, **changes: object) -> None:
    write_json(path, {**(json.loads(path.read_text()) if path.exists() else {}), **changes})


def model_directory(tmp_path: Path, *sources: Path, vocab_size: int, **config: object) -> Path:
    directory = tmp_path / "model"
    directory.mkdir()
    for source in sources:
        shutil.copy(source, directory)
    shape = {"hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 64}
    kind = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "transformers_version": "5.0.0"}
    rest = {"vocab_size": vocab_size, "max_position_embeddings": 128, "rms_norm_eps": 1e-5}
    write_json(directory / "config.json", {**kind, **shape, **rest, **config})
    return directory


def value_of(entry: KeyValue) -> Any:  # noqa: ANN401 - a metadata value
    if entry.type != gguf.GGUFValueType.ARRAY:
        return entry.value
    return [item.decode("utf-8") if isinstance(item, bytes) else item for item in entry.value]


def reference_entries(reference: Reference, directory: Path) -> list[tuple[str, Any, str]]:
    out = directory.parent / "vocab.gguf"
    command = [sys.executable, str(reference.converter), str(directory), "--vocab-only", "--outfile", str(out)]
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    fields = gguf.GGUFReader(out).fields.items()
    return [
        (key, field.contents(), "/".join(type_.name for type_ in field.types))
        for key, field in fields
        if key.startswith("tokenizer.")
    ]


def our_entries(directory: Path, vocab_size: int, rule: TokenizerRule = LLAMA_TOKENIZER) -> list[tuple[str, Any, str]]:
    entries = vocabulary_metadata(read_vocabulary(directory, vocab_size=vocab_size, rule=rule))
    return [(entry.key, value_of(entry), type_name(entry)) for entry in entries]


def type_name(entry: KeyValue) -> str:
    if entry.type != gguf.GGUFValueType.ARRAY:
        return str(entry.type.name)
    inferred = gguf.GGUFValueType.get_type(entry.value[0])
    return f"ARRAY/{(entry.item_type or inferred).name}"


def split(regex: str) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False}


def byte_level(*, use_regex: bool) -> dict[str, Any]:
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": use_regex}


def sequence(*steps: dict[str, Any]) -> dict[str, Any]:
    return {"type": "Sequence", "pretokenizers": list(steps)}


def added(number: int, content: str, *, special: bool = True, normalized: bool = False) -> dict[str, Any]:
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": normalized, "special": special}
    return {"id": number, "content": content, **flags}


def byte_level_json(
    pre_tokenizer: object, *, extra: tuple[dict[str, Any], ...] = (), **model: object
) -> dict[str, Any]:
    return {
        "version": "1.0",
        "added_tokens": [added(3, "<s>"), *extra],
        "normalizer": None,
        "pre_tokenizer": pre_tokenizer,
        "post_processor": None,
        "decoder": byte_level(use_regex=True),
        "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": ["a b"], **model},
    }


def gemma_like(*tokens: str) -> dict[str, Any]:
    vocab = {token: number for number, token in enumerate(("a", "▁", "a▁", "<s>", *tokens))}
    return {
        **byte_level_json(
            {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False}
        ),
        "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
        "decoder": {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Fuse"}]},
        "model": {"type": "BPE", "byte_fallback": True, "vocab": vocab, "merges": [["a", "▁"]]},
    }


def hostile(tmp_path: Path, **changes: object) -> Path:
    write_json(tmp_path / "tokenizer.json", {**byte_level_json(byte_level(use_regex=True)), **changes})
    return tmp_path


BPE = {"type": "BPE", "merges": ["a b"]}
