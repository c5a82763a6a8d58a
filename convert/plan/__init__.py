"""Decide everything before one weight is read: files, headers, offsets, types, and the work in between.

A plan is frozen data. `stream` carries it out and decides nothing; `--dry-run` prints it and is the truth.
"""

from convert.plan.data import FileKind, Output, Plan, PlannedInput, Target, Task
from convert.plan.from_checkpoint import plan_checkpoint
from convert.plan.from_gguf import plan_gguf

__all__ = ["FileKind", "Output", "Plan", "PlannedInput", "Target", "Task", "plan_checkpoint", "plan_gguf"]
