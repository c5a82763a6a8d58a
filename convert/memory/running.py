"""How much memory a model takes when llama.cpp runs it, from the metadata alone.

    weights      the file's tensors, which is nearly its length
    KV cache     for each layer, key and value of every token in float16; a layer with a window keeps only that
    overhead     what one batch of 512 tokens is computed in, and the program with its libraries

The state of recurrent layers is small, and within the overhead.
Source of the cache's shape: src/llama-kv-cache.cpp and src/llama-kv-cache-iswa.cpp @ 0c1e570.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from gguf import Keys

if TYPE_CHECKING:
    from collections.abc import Mapping

CONTEXTS: Final = (4096, 32768)  # what people run with, and what they wish for
_F16: Final = 2  # bytes: the cache's type by default
_F32: Final = 4
BATCH: Final = 512  # tokens: n_ubatch by default
PROGRAM_NBYTES: Final = 256 << 20  # llama.cpp, its libraries, what a GPU's driver keeps; measured, rounded up
_PADDED: Final = 256  # cells
# Architectures that llama.cpp gives a smaller cache in layers with a window -> of how many layers the last is without
# one, where the file does not say: src/models/*.cpp, set_swa_pattern. For others a window changes no memory.
_WINDOWED: Final = {"gemma2": 2, "gemma3": 6, "cohere2": 4, "gpt-oss": 2, "olmo2": 4, "exaone4": 4, "llama4": 4}


@dataclass(frozen=True, slots=True)
class MemoryUse:
    """Bytes that a model takes at a context of so many tokens."""

    n_tokens: int
    weights: int
    cache: int
    overhead: int

    @property
    def nbytes(self) -> int:
        """All of it."""
        return self.weights + self.cache + self.overhead


def memory_use(values: Mapping[str, Any], weights: int) -> tuple[MemoryUse, ...]:
    """Compute what a model takes at each of the usual contexts, or at its own where that is shorter.

    values: the metadata of its file. weights: bytes of its tensors.
    """
    own = _Numbers(values).number("context_length") or CONTEXTS[-1]
    lengths = dict.fromkeys(min(length, own) for length in CONTEXTS)
    return tuple(
        MemoryUse(length, weights, cache_nbytes(values, length), overhead_nbytes(values)) for length in lengths
    )


def cache_nbytes(values: Mapping[str, Any], n_tokens: int) -> int:
    """Count the bytes of the cache, for one conversation of at most so many tokens."""
    numbers = _Numbers(values)
    cells = _up(n_tokens)
    window = numbers.number("attention.sliding_window") if numbers.arch in _WINDOWED else 0
    windowed = min(cells, _up(window + BATCH))
    return sum(
        layer_values * _F16 * (windowed if window and numbers.has_window(layer) else cells)
        for layer, layer_values in enumerate(numbers.cached_values())
    )


def overhead_nbytes(values: Mapping[str, Any]) -> int:
    """Bound what a batch is computed in: scores of all tokens of the vocabulary, and a few states of a layer."""
    numbers = _Numbers(values)
    tokens = values.get(Keys.Tokenizer.LIST)
    widths = len(tokens) if isinstance(tokens, tuple) else numbers.number("vocab_size")
    widths += 8 * numbers.number("embedding_length") + 3 * numbers.most("feed_forward_length")
    return PROGRAM_NBYTES + BATCH * _F32 * widths


def _up(cells: int) -> int:
    return -(-cells // _PADDED) * _PADDED


class _Numbers:
    """A file's numbers by their names without the architecture."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = values
        self.arch = str(values.get(Keys.General.ARCHITECTURE))

    def number(self, name: str) -> int:
        value = self._values.get(f"{self.arch}.{name}")
        return int(value) if isinstance(value, (int, float)) else 0

    def most(self, name: str) -> int:
        return max(self.by_layer(name), default=0)

    def by_layer(self, name: str) -> list[int]:
        value = self._values.get(f"{self.arch}.{name}")
        if isinstance(value, tuple):
            return [int(each) for each in value]
        return [self.number(name)] * self.number("block_count")

    def cached_values(self) -> list[int]:
        """Count what each layer keeps of a token; latent attention (MLA) keeps one vector for both."""
        n_heads = self.by_layer("attention.head_count")
        heads_kv = self.by_layer("attention.head_count_kv") if self._has("attention.head_count_kv") else n_heads
        width = self.number("embedding_length") // max(max(n_heads, default=1), 1)
        key = self.number("attention.key_length") or width
        value = self.number("attention.value_length") or width
        if self._has("attention.key_length_mla"):
            return [key * heads for heads in heads_kv]
        return [(key + value) * heads for heads in heads_kv]

    def has_window(self, layer: int) -> bool:
        pattern = self._values.get(f"{self.arch}.attention.sliding_window_pattern")
        if isinstance(pattern, tuple):
            return bool(pattern[layer]) if layer < len(pattern) else False
        period = pattern if isinstance(pattern, int) and pattern else _WINDOWED[self.arch]
        return layer % period < period - 1

    def _has(self, name: str) -> bool:
        return f"{self.arch}.{name}" in self._values
