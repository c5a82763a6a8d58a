"""What the other process needs for the tensors that it computes whole: stated before the work, and bounded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from convert.errors import PlanError, Remedy

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


@dataclass(frozen=True, slots=True)
class Memory:
    """A bound on the bytes of tensors that the other process holds at any time, beyond Python, torch and transformers.

    largest: the tensor whose values take most; None where none is computed. n_whole: how many are, of n_tensors.
    """

    nbytes: int
    largest: str | None
    n_whole: int
    n_tensors: int

    @classmethod
    def of(cls, described: Sequence[Mapping[str, Any]], kept_nbytes: int) -> Memory:
        """Gather it. kept_nbytes: of what was computed while planning, and stays.

        Computing one tensor takes each step's values at once, and the stored bytes that it is made from.
        """
        whole = [tensor for tensor in described if tensor["made_of"] is None]
        largest = max(whole, key=lambda tensor: int(tensor["nbytes_to_compute"]), default=None)
        needed = 0 if largest is None else int(largest["nbytes_to_compute"])
        return cls(kept_nbytes + needed, None if largest is None else largest["name"], len(whole), len(described))

    @property
    def notes(self) -> tuple[str, ...]:
        """A line for the plan."""
        if self.largest is None:
            return ()
        note = (
            f"memory: llama.cpp's definition computes {self.n_whole} of {self.n_tensors} tensors whole, one at a time,"
            f" in at most {self.nbytes / 1e6:.1f} MB (`{self.largest}`) beside torch and transformers"
        )
        return (note,)


def check_memory(memory: Memory, max_nbytes: int | None) -> None:
    """Raise PlanError for more than is allowed."""
    if max_nbytes is not None and memory.nbytes > max_nbytes:
        raise PlanError(
            f"llama.cpp's definition needs {memory.nbytes} bytes of memory to compute `{memory.largest}`,"
            f" {max_nbytes} are allowed",
            remedies=(Remedy.MORE_MEMORY,),
        )
