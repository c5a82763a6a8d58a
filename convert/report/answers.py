"""Next-token probabilities of a reference, kept within a budget, and other models' of the same text beside them.

    reference ── llama-perplexity ──▶ pipe ──▶ Kept: every place, whole or its likeliest k tokens and the rest's mass
    a file    ── llama-perplexity ──▶ pipe ──▶ place by place beside it ──▶ Answers

No file of all logits: llama-perplexity writes into a pipe, which is read as it comes. Where k tokens are kept,

    KL(p‖q) ≈ Σ_kept p ln(p/q) + P ln(P/Q)      P, Q: what p and q have beyond the kept tokens

which is never more than the whole sum (the log-sum inequality); how much less, is measured on the first places, which
are kept whole as well. As llama-perplexity does, tokens below e^-16 count nothing. Source:
tools/perplexity/perplexity.cpp, log_softmax and kl_divergence @ 0c1e570.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO, Final

import numpy as np

from convert.errors import VerificationError
from convert.report.data import Answers

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from convert.verify.probabilities import Logs, Windows

_LEAST: Final = -16.0
_KEPT_NBYTES: Final = 8  # an id and a logarithm
_FEWEST_KEPT: Final = 64
_SAMPLE: Final = 64  # places that are kept whole beside what is kept of them
_TINY: Final = 1e-12


@dataclass(frozen=True, slots=True)
class Kept:
    """A reference's places. path: rows as described below. k: tokens a place, n_vocab for all.

    A row is the right token's logarithm, the mass beyond the kept tokens, the kept tokens' logarithms (float32 each,
    the highest first where not all are kept), then, where not all are kept, their ids (uint32). sample: the first
    places' logarithms, whole; none where all are.
    """

    path: Path
    windows: Windows
    k: int
    sample: Logs

    @property
    def is_whole(self) -> bool:
        """Whether every token of the vocabulary is kept."""
        return self.k == self.windows.n_vocab

    @property
    def n_places(self) -> int:
        """How many places there are."""
        return len(self.windows.tokens) * self.windows.n_places

    def rows(self) -> Iterator[NDArray[np.uint8]]:
        """Yield the rows in groups, as many as `Windows.places` gives at once."""
        nbytes = 8 + self.k * (4 if self.is_whole else _KEPT_NBYTES)
        step = max((1 << 22) // self.windows.n_vocab, 1)
        with self.path.open("rb") as file:
            for start in range(0, self.n_places, step):
                n = min(step, self.n_places - start)
                yield np.frombuffer(file.read(n * nbytes), np.uint8).reshape(n, nbytes)


def kept_tokens(windows: Windows, budget: int) -> int:
    """Choose how many tokens of a place are kept, so that all places take at most `budget` bytes.

    Raises VerificationError if that is too few to say anything.
    """
    n_places = len(windows.tokens) * windows.n_places
    if n_places * (8 + 4 * windows.n_vocab) <= budget:
        return windows.n_vocab
    k = (budget // n_places - 8) // _KEPT_NBYTES
    if k < _FEWEST_KEPT:
        raise VerificationError(
            f"{budget} bytes keep {max(k, 0)} tokens of each of {n_places} places, too few to compare"
        )
    return min(k, windows.n_vocab - 1)


def keep(windows: Windows, file: BinaryIO, path: Path, *, budget: int) -> Kept:
    """Read the reference's places as they come, and keep what there is room for."""
    k = kept_tokens(windows, budget)
    sample = np.empty((0, windows.n_vocab))
    with path.open("wb") as out:
        for following, logs in windows.places(file, len(windows.tokens)):
            if k < windows.n_vocab and not len(sample):
                sample = logs[:_SAMPLE].copy()
            out.write(_row_bytes(following, logs, k).tobytes())
    return Kept(path, windows, k, sample)


def _row_bytes(following: NDArray[np.int32], logs: Logs, k: int) -> NDArray[np.uint8]:
    right = np.take_along_axis(logs, following[:, None].astype(np.int64), axis=1)
    if k == logs.shape[1]:
        columns = [right, np.zeros_like(right), logs]
        return np.concatenate(columns, axis=1).astype("<f4").view(np.uint8)
    ids = np.argpartition(-logs, k, axis=1)[:, :k]
    found = np.take_along_axis(logs, ids, axis=1)
    order = np.argsort(-found, axis=1, kind="stable")
    ids, found = np.take_along_axis(ids, order, axis=1), np.take_along_axis(found, order, axis=1)
    beyond = np.maximum(np.exp(logs).sum(axis=1, keepdims=True) - np.exp(found).sum(axis=1, keepdims=True), 0)
    floats = np.concatenate([right, beyond, found], axis=1).astype("<f4").view(np.uint8)
    return np.concatenate([floats, ids.astype("<u4").view(np.uint8)], axis=1)


@dataclass(frozen=True, slots=True)
class _Places:
    """What is known of each place: (n,) each."""

    ours: NDArray[np.float64]
    theirs: NDArray[np.float64]
    divergence: NDArray[np.float64]
    same_top: NDArray[np.bool_]
    beyond: NDArray[np.float64]


def compare(windows: Windows, file: BinaryIO, kept: Kept) -> Answers:
    """Read a model's places as they come, beside the reference's.

    Raises VerificationError if they are not of one text and vocabulary, or NaN.
    """
    if windows.n_vocab != kept.windows.n_vocab or not np.array_equal(windows.tokens, kept.windows.tokens):
        raise VerificationError("the models cut the text into different tokens")
    pairs = zip(windows.places(file, len(windows.tokens)), kept.rows(), strict=True)
    groups, lost = [], 0.0
    for (following, logs), rows in pairs:
        groups.append(_compared(following, logs, rows, kept))
        if len(groups) == 1 and len(sample := kept.sample):
            lost = float(_divergence(sample, logs[: len(sample)]).mean() - groups[0].divergence[: len(sample)].mean())
    return _answers(_joined(groups), kept, lost)


def _divergence(theirs: Logs, beside: Logs) -> NDArray[np.float64]:
    return np.where(theirs > _LEAST, np.exp(theirs) * (theirs - beside), 0).sum(axis=1)  # type: ignore[no-any-return]


def _compared(following: NDArray[np.int32], ours: Logs, rows: NDArray[np.uint8], kept: Kept) -> _Places:
    floats = rows[:, : 8 + 4 * kept.k].copy().view("<f4").astype(np.float64)
    right, beyond, theirs = floats[:, 0], floats[:, 1], floats[:, 2:]
    if kept.is_whole:
        beside, top = ours, theirs.argmax(axis=1)
    else:
        ids = rows[:, 8 + 4 * kept.k :].copy().view("<u4").astype(np.int64)
        beside, top = np.take_along_axis(ours, ids, axis=1), ids[:, 0]
    divergence = _divergence(theirs, beside)
    if not kept.is_whole:
        left = np.maximum(np.exp(ours).sum(axis=1) - np.exp(beside).sum(axis=1), _TINY)
        divergence += np.where(beyond > _TINY, beyond * np.log(np.maximum(beyond, _TINY) / left), 0)
    return _Places(
        ours=np.take_along_axis(ours, following[:, None].astype(np.int64), axis=1)[:, 0],
        theirs=right,
        divergence=divergence,
        same_top=ours.argmax(axis=1) == top,
        beyond=beyond,
    )


def _joined(groups: list[_Places]) -> _Places:
    names = ("ours", "theirs", "divergence", "same_top", "beyond")
    return _Places(**{name: np.concatenate([getattr(group, name) for group in groups]) for name in names})


def _answers(places: _Places, kept: Kept, lost: float) -> Answers:
    ratio = places.theirs - places.ours
    if not np.isfinite(places.divergence).all():
        raise VerificationError("the model computes NaN instead of probabilities")
    change = np.exp(places.ours) - np.exp(places.theirs)
    perplexity, mean_ratio = float(np.exp(-places.ours.mean())), float(np.exp(ratio.mean()))
    median, kl_99, kl_999, kl_max = np.quantile(places.divergence, (0.5, 0.99, 0.999, 1.0))
    change_1, change_99 = np.quantile(change, (0.01, 0.99))
    return Answers(
        n_places=len(places.ours),
        perplexity=perplexity,
        uncertainty=perplexity * _deviation(places.ours),
        ratio=mean_ratio,
        ratio_uncertainty=mean_ratio * _deviation(ratio),
        kl_mean=float(places.divergence.mean()),
        kl_uncertainty=_deviation(places.divergence),
        kl_median=float(median),
        kl_99=float(kl_99),
        kl_999=float(kl_999),
        kl_max=float(kl_max),
        same_top=float(places.same_top.mean()),
        change_mean=float(change.mean()),
        change_rms=float(np.sqrt(np.square(change).mean())),
        change_1=float(change_1),
        change_99=float(change_99),
        kept=kept.k,
        tail=float(places.beyond.mean()),
        lost=lost,
    )


def _deviation(values: NDArray[np.float64]) -> float:
    """Give the standard error of the mean."""
    return float(values.std() / max(len(values) - 1, 1) ** 0.5)
