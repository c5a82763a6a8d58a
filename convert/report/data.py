"""What was measured: frozen data, the same as JSON and back."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from math import isfinite
from typing import Any


@dataclass(frozen=True, slots=True)
class Missing:
    """What could not be measured, and why."""

    what: str
    why: str


@dataclass(frozen=True, slots=True)
class Size:
    """What a file takes. bits_per_weight: of the whole file. cache: context length → bytes of the key-value cache."""

    nbytes: int
    n_weights: int
    bits_per_weight: float
    cache: dict[str, int]


@dataclass(frozen=True, slots=True)
class TensorCost:
    """What one tensor takes, and how far it is from the reference's, in standard deviations of its values."""

    name: str
    type: str
    nbytes: int
    relative_rmse: float


@dataclass(frozen=True, slots=True)
class Weights:
    """How far the decoded weights are from the reference's: root mean square error over the values' spread."""

    relative_rmse: float
    tensors: tuple[TensorCost, ...]


@dataclass(frozen=True, slots=True)
class Answers:
    """How far the next-token probabilities are from the reference's, over the judged places of the text.

    perplexity ± uncertainty; ratio ± ratio_uncertainty: to the reference's perplexity, paired by place.
    kl_*: Kullback-Leibler divergence from the reference, in nats. same_top: how often the likeliest token is the same.
    change_*: of the right token's probability, -1 to 1: mean, root mean square, 1st and 99th percentile.
    kept, tail: of the reference, so many tokens were kept a place, and this mass was beyond them; 0 where all were.
    lost: nats that the cut takes from kl_mean, measured on the first places, where nothing is cut.
    """

    n_places: int
    perplexity: float
    uncertainty: float
    ratio: float
    ratio_uncertainty: float
    kl_mean: float
    kl_uncertainty: float
    kl_median: float
    kl_99: float
    kl_999: float
    kl_max: float
    same_top: float
    change_mean: float
    change_rms: float
    change_1: float
    change_99: float
    kept: int
    tail: float
    lost: float


@dataclass(frozen=True, slots=True)
class Speed:
    """Tokens a second, with the deviation over the runs, of a prompt and of generation, and one prompt answered.

    seconds: of the whole program, loading included. memory: the program's peak resident bytes.
    """

    n_prompt: int
    prompt: float
    prompt_deviation: float
    n_generated: int
    generation: float
    generation_deviation: float
    seconds: float
    memory: int


@dataclass(frozen=True, slots=True)
class Subject:
    """One file, or one way of loading the model elsewhere.

    path: the file, None for transformers. type: of the file, such as `Q4_K_M`, or the precision. sha256: the file's.
    perplexity: of the same text, where there is no reference to compare answers with.
    """

    label: str
    type: str
    path: str | None = None
    sha256: str | None = None
    size: Size | None = None
    weights: Weights | None = None
    perplexity: float | None = None
    answers: Answers | None = None
    speed: Speed | None = None
    missing: tuple[Missing, ...] = ()


@dataclass(frozen=True, slots=True)
class Report:
    """Everything.

    reference: the file that the others are compared with. floor: the reference against itself, computed another way:
    what of a divergence is mere arithmetic. text: the file's name. machine, versions: name → what.
    """

    model: str
    reference: str | None
    subjects: tuple[Subject, ...]
    floor: Answers | None
    prompt: str
    text: str | None
    text_sha256: str | None
    machine: dict[str, str]
    versions: dict[str, str]
    command: str
    missing: tuple[Missing, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Give everything as plain data; what JSON has no number for is None."""
        plain: dict[str, Any] = _plain(asdict(self))
        return plain


def _plain(value: object) -> Any:  # noqa: ANN401 - JSON
    if isinstance(value, dict):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    return None if isinstance(value, float) and not isfinite(value) else value
