"""What a plan for a dequantized directory is: frozen data, complete."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from convert.checkpoint.source import TORCH_NAMES
from convert.plan import Plan

if TYPE_CHECKING:
    from pathlib import Path

    from convert.adapter import MergeRequest
    from convert.checkpoint import StoredType
    from convert.dequantization.shards import Shard
    from convert.dequantization.through import Through
    from convert.plan import Output


@dataclass(frozen=True, slots=True)
class DequantizePlan:
    """The whole work.

    dtype: of every floating tensor. n_changed: how many tensors are unpacked, or taken down and up again. merged: the
    adapters that are merged. shards: the files of weights. side_files: the small files as a plan without tensors, to be
    carried out last; config.json is its last. statements: what is made of what, as the model card says it.
    """

    source: Path
    outdir: Path
    architecture: str
    dtype: StoredType
    packing: str | None
    through: Through | None
    n_changed: int
    merged: tuple[MergeRequest, ...]
    shards: tuple[Shard, ...]
    side_files: Plan
    statements: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def plans(self) -> tuple[Plan, ...]:
        """What is carried out, one after the other."""
        return (*(shard.plan for shard in self.shards), self.side_files)

    @property
    def outputs(self) -> tuple[Output, ...]:
        """Every file, in the order they appear."""
        return tuple(output for plan in self.plans for output in plan.outputs)

    @property
    def nbytes(self) -> int:
        """The length of all files together."""
        return sum(plan.nbytes for plan in self.plans)

    @property
    def dtype_name(self) -> str:
        """The dtype as config.json spells it."""
        return TORCH_NAMES[self.dtype]

    @property
    def file_names(self) -> list[str]:
        """Every file's path in the directory."""
        return [output.path.relative_to(self.outdir).as_posix() for output in self.outputs]

    @property
    def summary(self) -> Plan:
        """All of it as one plan without work, to be shown."""
        shards = [shard.plan for shard in self.shards]
        return Plan(
            source=self.source,
            architecture=self.architecture,
            n_parameters=sum(plan.n_parameters for plan in shards),
            source_nbytes=sum(plan.source_nbytes for plan in shards),
            outputs=self.outputs,
            tasks=(),
            notes=(*self.statements, *self.notes),
        )

    def as_json(self) -> str:
        """Give the whole plan as JSON: every file's length, and every tensor's type and place."""
        document = {
            "source": str(self.source),
            "architecture": self.architecture,
            "dtype": self.dtype_name,
            "packing": self.packing,
            "through": self.through.value if self.through else None,
            "n_changed": self.n_changed,
            "merged": [{"adapter": str(request.path), "weight": request.weight} for request in self.merged],
            "nbytes": self.nbytes,
            "notes": self.notes,
            "outputs": [_described(output, shard) for shard in self.shards for output in shard.plan.outputs]
            + [_described(output) for output in self.side_files.outputs],
        }
        return json.dumps(document, indent=2)


def _described(output: Output, shard: Shard | None = None) -> dict[str, Any]:
    offsets = {info.name: info.offset for info in output.tensors}
    return {
        "path": str(output.path),
        "nbytes": output.nbytes,
        "tensors": [
            {
                "name": tensor.name,
                "shape": tensor.tensor.shape,
                "type": tensor.stored.value,
                "offset": offsets.get(tensor.name),  # none without elements
                "nbytes": tensor.nbytes,
            }
            for tensor in (shard.tensors if shard else ())
        ],
    }
