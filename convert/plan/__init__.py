"""Decide everything before one weight is read: files, headers, offsets, types, and the work in between.

A plan is frozen data that pickles. `stream` carries it out and decides nothing; `--dry-run` prints it and is the truth.

    request  which files are wanted
    data     what a plan is
    files    what each file is to hold: tensors, their types
    metadata what a quantized file says
    pruned   a model without some of its layers
    checks   whether an importance matrix fits, and what it lacks
    layout   from that to offsets, headers and tasks: `plan`
    split    how files are cut into parts
    stored   a GGUF file cut into parts, and parts put together
    joined   the plans of a model's text and of what is beside it as one
    part     some of a plan's files, made by themselves
    styles   how files are called
"""

from convert.plan.data import FileKind, FileLayout, Output, Plan, Target, Task
from convert.plan.joined import joined
from convert.plan.layout import lay_out, plan
from convert.plan.part import packed, part
from convert.plan.request import (
    OutputRequest,
    directory_name,
    directory_owner,
    gguf_name,
    parse_type,
    parse_types,
    require_directory,
    require_file,
)
from convert.plan.split import SplitRequest, parse_size
from convert.plan.stored import plan_in_parts, plan_merged
from convert.plan.styles import STYLES

__all__ = [
    "STYLES",
    "FileKind",
    "FileLayout",
    "Output",
    "OutputRequest",
    "Plan",
    "SplitRequest",
    "Target",
    "Task",
    "directory_name",
    "directory_owner",
    "gguf_name",
    "joined",
    "lay_out",
    "packed",
    "parse_size",
    "parse_type",
    "parse_types",
    "part",
    "plan",
    "plan_in_parts",
    "plan_merged",
    "require_directory",
    "require_file",
]
