"""Next-token probabilities of a text, as llama-perplexity saves them, and what can be computed from them.

The text is cut into windows of n_ctx tokens; only the second half of each is judged, so that there is always context.

    "_logits_" · n_ctx · n_vocab · n_windows (int32 each) · the tokens (int32)
    per window, per judged place:  scale f32 · least f32 · q uint16 (n_vocab, padded to even)

with log p = least + scale * q. What is more than 16 below the highest is stored as that: no matter for a divergence,
but a perplexity from here would be too small.
Source: tools/perplexity/perplexity.cpp, perplexity and log_softmax @ 0c1e570.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite
from typing import TYPE_CHECKING, BinaryIO, Final

import numpy as np

from convert.errors import VerificationError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    Logs = NDArray[np.float64]

_MAGIC: Final = b"_logits_"
_HEADER_NBYTES: Final = 20
_GROUP_VALUES: Final = 1 << 22
_RANGE: Final = 16.0
_HIGHEST: Final = 65535


@dataclass(frozen=True, slots=True)
class Windows:
    """How a text was cut: the head of a file of probabilities. tokens: int32 (n_windows, n_ctx)."""

    n_ctx: int
    n_vocab: int
    tokens: NDArray[np.int32]

    @property
    def first(self) -> int:
        """The first judged place of a window: its logits predict the token after it."""
        return self.n_ctx // 2

    @property
    def n_places(self) -> int:
        """How many places of a window are judged."""
        return self.n_ctx - 1 - self.first

    @property
    def row_nbytes(self) -> int:
        """The bytes of one place."""
        return _row_nbytes(self.n_vocab)

    def following(self, n_windows: int) -> NDArray[np.int32]:
        """Give the token after each judged place of the first windows."""
        return self.tokens[:n_windows, self.first + 1 :].reshape(-1)

    def places(self, file: BinaryIO, n_windows: int) -> Iterator[tuple[NDArray[np.int32], Logs]]:
        """Read the first windows' places in groups, after the head: next tokens (n,), logarithms (n, n_vocab)."""
        following = self.following(n_windows)
        step = max(_GROUP_VALUES // self.n_vocab, 1)
        for start in range(0, len(following), step):
            wanted = following[start : start + step]
            raw = np.frombuffer(file.read(len(wanted) * self.row_nbytes), np.uint8)
            if raw.size != len(wanted) * self.row_nbytes:
                raise VerificationError("llama-perplexity left its probabilities incomplete")
            yield wanted, _decoded(raw.reshape(len(wanted), -1), self.n_vocab)


@dataclass(frozen=True, slots=True)
class Probabilities(Windows):
    """A file of them."""

    path: Path

    def read(self, n_windows: int) -> Iterator[tuple[NDArray[np.int32], Logs]]:
        """Yield the first windows' places, as `places` does."""
        with self.path.open("rb") as file:
            file.seek(_HEADER_NBYTES + self.tokens.nbytes)
            yield from self.places(file, n_windows)


def _row_nbytes(n_vocab: int) -> int:
    return 8 + 2 * (2 * ((n_vocab + 1) // 2))


def _decoded(rows: NDArray[np.uint8], n_vocab: int) -> Logs:
    scale_and_least = rows[:, :8].copy().view("<f4").astype(np.float64)
    quants = rows[:, 8:].copy().view("<u2")[:, :n_vocab]
    logs: Logs = scale_and_least[:, 1:] + scale_and_least[:, :1] * quants
    return logs


def read_head(file: BinaryIO) -> Windows:
    """Read what stands before the places; VerificationError if that is something else, or holds nothing."""
    head = file.read(_HEADER_NBYTES)
    if len(head) != _HEADER_NBYTES or not head.startswith(_MAGIC):
        raise VerificationError("llama-perplexity saved no probabilities")
    n_ctx, n_vocab, n_windows = (int(number) for number in np.frombuffer(head[8:], "<i4"))
    tokens = np.frombuffer(file.read(4 * n_ctx * n_windows), "<i4")
    if tokens.size != n_ctx * n_windows or not tokens.size:
        raise VerificationError("llama-perplexity saved no probabilities")
    return Windows(n_ctx, n_vocab, tokens.reshape(n_windows, n_ctx))


def read_probabilities(path: Path) -> Probabilities:
    """Read a file's header; VerificationError if it is none, or holds nothing."""
    with path.open("rb") as file:
        head = read_head(file)
    return Probabilities(head.n_ctx, head.n_vocab, head.tokens, path)


def write_probabilities(
    path: Path, like: Probabilities, *, n_windows: int, logits: Callable[[int], NDArray[np.float32]]
) -> Probabilities:
    """Write another model's probabilities of the same text's first windows.

    logits: gives those of a window, by its number: float32 (n_places, n_vocab).
    """
    tokens = like.tokens[:n_windows]
    with path.open("wb") as file:
        file.write(_MAGIC + np.array([like.n_ctx, like.n_vocab, n_windows], "<i4").tobytes() + tokens.tobytes())
        for window in range(n_windows):
            file.write(_encoded(logits(window)))
    return Probabilities(like.n_ctx, like.n_vocab, tokens, path)


def _encoded(logits: NDArray[np.float32]) -> bytes:
    values = logits.astype(np.float64)
    logs = values - values.max(axis=1, keepdims=True)
    logs -= np.log(np.exp(logs).sum(axis=1, keepdims=True))
    highest = logs.max(axis=1, keepdims=True)
    least = np.maximum(logs.min(axis=1, keepdims=True), highest - _RANGE)
    scale = (highest - least) / _HIGHEST
    quants = np.rint(np.divide(logs - least, scale, out=np.zeros_like(logs), where=scale > 0)).clip(0, _HIGHEST)
    rows = np.zeros((len(logs), _row_nbytes(logits.shape[1])), np.uint8)
    rows[:, :8] = np.concatenate([scale, least], axis=1).astype("<f4").view(np.uint8)
    rows[:, 8 : 8 + 2 * logits.shape[1]] = quants.astype("<u2").view(np.uint8)
    return rows.tobytes()


def divergence(of: Probabilities, base: Probabilities) -> tuple[float, float]:
    """Return the mean Kullback-Leibler divergence from base, in nats, and how often the likeliest token is the same.

    Over the windows that both have. Raises VerificationError if they are not of one text and vocabulary, or NaN.
    """
    n_windows = min(len(of.tokens), len(base.tokens))
    if of.n_vocab != base.n_vocab or not np.array_equal(of.tokens[:n_windows], base.tokens[:n_windows]):
        raise VerificationError("the models cut the text into different tokens")
    total = same = 0.0
    for (_, ours), (_, theirs) in zip(of.read(n_windows), base.read(n_windows), strict=True):
        total += float((np.exp(theirs) * (theirs - ours)).sum())
        same += float((ours.argmax(axis=1) == theirs.argmax(axis=1)).sum())
    if not isfinite(total):
        raise VerificationError("the model computes NaN instead of probabilities")
    n_places = n_windows * of.n_places
    return total / n_places, same / n_places
