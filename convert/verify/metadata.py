"""The metadata that loading needs: sizes that agree with the tensors, tokens for every row, ids that are tokens.

Sizes are checked of families that are known here; of others (a projector, Mamba, T5) another rule may hold.

Source: src/llama-model.cpp, llama_model::load_hparams and src/llama-vocab.cpp, llama_vocab::impl::load @ 0c1e570.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from gguf import Keys

from convert.architecture import facts_of, is_known
from convert.verify.data import Finding, note, problem

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from convert.gguf_file import GGUFFile, TensorInfo

CHECK = "metadata"

_NEEDED: Final = ("block_count", "context_length", "embedding_length", "feed_forward_length", "attention.head_count")
_EMBEDDING: Final = "token_embd.weight"
_PER_TOKEN: Final = (Keys.Tokenizer.SCORES, Keys.Tokenizer.TOKEN_TYPE)
_NO_TOKEN: Final = -1


def check_metadata(header: GGUFFile) -> Iterator[Finding]:
    """Check what loading needs."""
    values = header.metadata
    arch = values.get(Keys.General.ARCHITECTURE)
    if not isinstance(arch, str) or not arch:
        yield problem(CHECK, f"`{Keys.General.ARCHITECTURE}` is missing")
        return
    tensors = {tensor.name: tensor for tensor in header.tensors}
    hyper = {key.removeprefix(f"{arch}."): value for key, value in values.items() if key.startswith(f"{arch}.")}
    if is_known(arch):
        yield from _check_needed(arch, hyper)
        yield from _check_sizes(arch, hyper, tensors)
        yield from check_tokens(values, tensors)
        return
    yield note(CHECK, f"what files of `{arch}` have is not known here: their sizes are not checked")
    if Keys.Tokenizer.LIST in values:
        yield from check_tokens(values, tensors)


def _check_needed(arch: str, hyper: Mapping[str, Any]) -> Iterator[Finding]:
    for key in _NEEDED:
        value = hyper.get(key)
        numbers = value if isinstance(value, tuple) else (value,)  # some models have one number a block
        if value is None:
            yield problem(CHECK, f"`{arch}.{key}` is missing")
        elif not all(isinstance(number, int) and number >= 0 for number in numbers) or not any(numbers):
            yield problem(CHECK, f"`{arch}.{key}` is {value!r}, not a positive integer")
    epsilons = facts_of(arch).epsilons
    found = [hyper[key] for key in epsilons if key in hyper]
    if not found:
        yield problem(CHECK, f"`{arch}.{epsilons[0]}` is missing")
    elif not all(isinstance(value, float) and 0 <= value < 1 for value in found):
        yield problem(CHECK, f"`{arch}.{epsilons[0]}` is {found[0]!r}, not a small number")


def _check_sizes(arch: str, hyper: Mapping[str, Any], tensors: Mapping[str, TensorInfo]) -> Iterator[Finding]:
    embedding = tensors.get(_EMBEDDING)
    if embedding is None:
        yield problem(CHECK, f"tensor `{_EMBEDDING}` is missing")
    elif "embedding_length" in hyper and embedding.shape[-1] != hyper["embedding_length"]:
        length, n_cols = hyper["embedding_length"], embedding.shape[-1]
        yield problem(CHECK, f"`{arch}.embedding_length` is {length}, `{_EMBEDDING}` has {n_cols} columns")
    blocks = {int(match[1]) for name in tensors if (match := re.match(r"blk\.(\d+)\.", name))}
    count, n_predicting = hyper.get("block_count"), hyper.get("nextn_predict_layers", 0)
    # Blocks that predict several tokens are counted, and may be missing, all of them.
    if isinstance(count, int) and blocks not in (set(range(count)), set(range(count - n_predicting))):
        yield problem(CHECK, f"`{arch}.block_count` is {hyper['block_count']}, the file has blocks {_ranges(blocks)}")
    yield from _check_heads(arch, hyper, tensors)


def _check_heads(arch: str, hyper: Mapping[str, Any], tensors: Mapping[str, TensorInfo]) -> Iterator[Finding]:
    heads, kv_heads = hyper.get("attention.head_count"), hyper.get("attention.head_count_kv")
    if not isinstance(heads, int) or heads < 1:
        return
    kv_heads = heads if kv_heads is None else kv_heads
    if not isinstance(kv_heads, int):
        return
    if kv_heads < 1 or heads % kv_heads:
        yield problem(CHECK, f"`{arch}.attention.head_count` is {heads}, not a multiple of head_count_kv, {kv_heads}")
        return
    width = hyper.get("attention.key_length")
    length = hyper.get("embedding_length")
    width = length // heads if width is None and isinstance(length, int) else width
    if not facts_of(arch).rows_are_heads or not isinstance(width, int):
        return
    for name, count in (("attn_q", heads), ("attn_k", kv_heads)):
        tensor = tensors.get(f"blk.0.{name}.weight")
        if tensor is not None and tensor.shape[0] != count * width:
            yield problem(
                CHECK, f"`{tensor.name}` has {tensor.shape[0]} rows, {count} heads of {width} make it {count * width}"
            )


def check_tokens(values: Mapping[str, Any], tensors: Mapping[str, TensorInfo]) -> Iterator[Finding]:
    """Check the vocabulary: one token a row, one score and type a token, special ids that are tokens."""
    tokens = values.get(Keys.Tokenizer.LIST)
    if Keys.Tokenizer.MODEL not in values or not isinstance(tokens, tuple):
        yield note(CHECK, "the file has no tokenizer: it takes ids only")
        return
    embedding = tensors.get(_EMBEDDING)
    n_rows = len(tokens) if embedding is None else embedding.shape[0]
    if len(tokens) != n_rows:
        yield problem(CHECK, f"`{Keys.Tokenizer.LIST}` has {len(tokens)} tokens, `{_EMBEDDING}` has {n_rows} rows")
    for key in _PER_TOKEN:
        listed = values.get(key)
        if isinstance(listed, tuple) and len(listed) != len(tokens):
            yield problem(CHECK, f"`{key}` has {len(listed)} entries, there are {len(tokens)} tokens")
    if values[Keys.Tokenizer.MODEL] == "gpt2" and not values.get(Keys.Tokenizer.MERGES):
        yield problem(CHECK, f"`{Keys.Tokenizer.MERGES}` is missing: a byte-level BPE cannot join anything")
    for key, value in values.items():
        is_id = re.fullmatch(r"tokenizer\.ggml\.\w+_token_id", key) is not None and value != _NO_TOKEN
        if is_id and not (isinstance(value, int) and 0 <= value < len(tokens)):
            yield problem(CHECK, f"`{key}` is {value!r}, the vocabulary has ids 0 to {len(tokens) - 1}")


def _ranges(blocks: set[int]) -> str:
    if not blocks:
        return "none"
    whole = blocks == set(range(max(blocks) + 1))
    return f"0 to {max(blocks)}" if whole else ", ".join(map(str, sorted(blocks)))
