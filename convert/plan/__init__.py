"""Decide everything before one weight is read: files, headers, offsets, types, and the work in between.

A plan is frozen data that pickles. `stream` carries it out and decides nothing; `--dry-run` prints it and is the truth.

    data     what a plan is
    files    what each file is to hold: tensors, their types
    metadata what a quantized file says
    pruned   a model without some of its layers
    checks   whether an importance matrix fits, and what it lacks
    layout   from that to offsets, headers and tasks: `plan`
"""

from convert.plan.data import FileKind, FileLayout, Output, Plan, Target, Task
from convert.plan.layout import lay_out, plan

__all__ = ["FileKind", "FileLayout", "Output", "Plan", "Target", "Task", "lay_out", "plan"]
