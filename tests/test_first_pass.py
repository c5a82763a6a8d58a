"""The first pass: whatever lacks statistics, anywhere in a tensor, is measured before rows are read, and once."""

from __future__ import annotations

import os
import signal
import time
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pytest
from packed_checkpoints import read_bits, tiny_config, write_safetensors_checkpoint

from convert.adapter.low_rank import ColumnDora, Factor, LowRank
from convert.adapter.merged_tensor import MergedTensor
from convert.checkpoint import SourceFiles, StoredType, open_checkpoint
from convert.checkpoint.statistics import OfWhole, lacking, measured
from convert.checkpoint.views import Rows, Swapped, Transposed, stacked
from convert.dequantization import DequantizeRequest, plan_dequantize
from convert.dequantization.through import RoundedTo4Bit, Through
from convert.errors import CheckpointError
from convert.plan import Plan, Task
from convert.stream import carry_out, with_statistics

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from convert.checkpoint import Tensor

SHAPE: Final = (300, 256)


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Tensor]:
    import torch

    random = torch.Generator().manual_seed(3)
    shapes = {"weight": SHAPE, "left": (300, 4), "right": (4, 256), "magnitude": (256,)}
    values = {name: torch.randn(shape, generator=random) for name, shape in shapes.items()}
    folder = tmp_path_factory.mktemp("first-pass") / "model"
    return open_checkpoint(write_safetensors_checkpoint(folder, tiny_config(), values)).tensors


def nested(base: Tensor) -> RoundedTo4Bit:
    return RoundedTo4Bit(base, Through.NF4_DQ, StoredType.F32)


def column_dora(stored: Mapping[str, Any], base: Tensor) -> MergedTensor:
    change = LowRank(Factor(stored["left"]), Factor(stored["right"]), 4, 256, np.float32(0.5))
    return MergedTensor(base, (ColumnDora(change, stored["magnitude"], base),))


def whole(tensor: Tensor) -> Tensor:
    with closing(SourceFiles()) as files:
        return measured(tensor, files)


VIEWS: Final[Mapping[str, Callable[[Tensor], Tensor]]] = {
    "itself": lambda base: base,
    "rows": lambda base: Rows(base, "rows", (20, 256), 7),
    "transposed": lambda base: Transposed(base, "transposed"),
    "stacked and swapped": lambda base: stacked("all", (Swapped(base, "a", 2, 3), Swapped(base, "b", 3, 4))),
    "merged": MergedTensor,
}


@pytest.mark.parametrize("view", VIEWS)
def test_what_lacks_statistics_is_found_inside_views(view: str, stored: Mapping[str, Tensor]) -> None:
    tensor = VIEWS[view](nested(stored["weight"]))
    assert lacking([tensor]) == [nested(stored["weight"])]
    known = whole(tensor)
    assert lacking([known]) == []
    np.testing.assert_array_equal(read_bits(known), read_bits(VIEWS[view](whole(nested(stored["weight"])))))


def test_the_inner_is_measured_before_the_outer(stored: Mapping[str, Tensor]) -> None:
    """DoRA's column norms are those of the weight after it went down and up."""
    base = nested(stored["weight"])
    (first,) = lacking([column_dora(stored, base)])
    assert first == base
    ours = read_bits(whole(column_dora(stored, base)))
    np.testing.assert_array_equal(ours, read_bits(whole(column_dora(stored, whole(base)))))


def test_what_is_known_already_is_left_alone(stored: Mapping[str, Tensor]) -> None:
    for tensor in (stored["weight"], whole(nested(stored["weight"])), whole(column_dora(stored, stored["weight"]))):
        assert whole(tensor) is tensor


@dataclass(frozen=True, slots=True)
class _Counted(OfWhole):
    """Measures nothing, and counts how often."""

    n_portions: int
    log: list[int] = field(default_factory=list, compare=False)
    on_measure: Callable[[], None] = field(default=lambda: None, compare=False)
    statistics: tuple[int, ...] | None = None

    @property
    def lacks_statistics(self) -> bool:
        return self.statistics is None

    def portions(self) -> Iterator[range]:
        return (range(index, index + 1) for index in range(self.n_portions))

    def measure(self, files: SourceFiles, portion: range) -> NDArray[Any]:
        del files
        self.log.append(portion.start)
        self.on_measure()
        return np.array(portion.start)

    def gather(self, gathered: list[NDArray[Any]], measured: NDArray[Any]) -> None:
        gathered.append(measured)

    def with_statistics(self, gathered: Sequence[NDArray[Any]]) -> _Counted:
        return replace(self, statistics=tuple(int(number) for number in gathered))


def plan_of(tmp_path: Path, *tensors: Any) -> Plan:  # noqa: ANN401 - as much of a tensor as is asked for
    tasks = tuple(Task(str(index), tensor, None, ()) for index, tensor in enumerate(tensors))
    return Plan(tmp_path, "Any", 0, 0, (), tasks)


def pause() -> None:
    time.sleep(np.random.default_rng().random() / 1000)


def test_portions_are_gathered_in_order_whoever_is_first(tmp_path: Path) -> None:
    parts = [_Counted(200, on_measure=pause), _Counted(50, on_measure=pause)]
    known = with_statistics(plan_of(tmp_path, *parts), jobs=8)
    for task, part in zip(known.tasks, parts, strict=True):
        tensor: Any = task.tensor
        assert tensor.statistics == tuple(range(part.n_portions))
        assert sorted(part.log) == list(range(part.n_portions))


def test_what_two_tensors_share_is_measured_once_and_stays_shared(tmp_path: Path) -> None:
    part = _Counted(3)
    known: list[Any] = [task.tensor for task in with_statistics(plan_of(tmp_path, part, (part, part))).tasks]
    assert part.log == [0, 1, 2]
    assert known[0] is known[1][0] is known[1][1]


def test_a_plan_that_lacks_nothing_is_itself(stored: Mapping[str, Tensor], tmp_path: Path) -> None:
    plan = plan_of(tmp_path, stored["weight"])
    assert with_statistics(plan) is plan


def test_an_interruption_ends_the_pass(tmp_path: Path) -> None:
    def interrupt() -> None:
        if len(part.log) == 3:
            os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.001)

    part = _Counted(100_000, on_measure=interrupt)
    with pytest.raises(KeyboardInterrupt):
        with_statistics(plan_of(tmp_path, part), jobs=2)
    assert len(part.log) < 10_000


def through_plan(folder: Path, outdir: Path) -> Plan:
    """Plan a shard of one layer whose statistics are quantized too."""
    import torch

    name = "model.layers.0.self_attn.q_proj.weight"
    values = {name: torch.randn(SHAPE, generator=torch.Generator().manual_seed(3)).half()}
    write_safetensors_checkpoint(folder, tiny_config(), values)
    return plan_dequantize(folder, DequantizeRequest(outdir, through="nf4-dq")).shards[0].plan


def test_a_failure_in_the_first_pass_leaves_nothing(tmp_path: Path) -> None:
    plan = through_plan(tmp_path / "model", tmp_path / "out")
    os.truncate(tmp_path / "model" / "model.safetensors", 4000)
    with pytest.raises(CheckpointError, match="did it change"):
        carry_out(plan)
    assert not (tmp_path / "out").exists()


def test_progress_counts_what_is_written_and_no_more(tmp_path: Path) -> None:
    plan = through_plan(tmp_path / "model", tmp_path / "out")
    told: list[int] = []
    carry_out(plan, progress=told.append)
    assert sum(told) == sum(tensor.nbytes for output in plan.outputs for tensor in output.tensors)
