"""Carry out a plan: read each tensor once, encode it for every output, write it at its offset.

Slices of whole rows go through a few workers, each with its own reused buffers, so memory is
workers x one slice whatever the model's size. Files appear under their final names only when complete.
"""

from convert.stream.carry_out import Progress, Report, Writing, WrittenOutput, carry_out, outputs_to_make
from convert.stream.first_pass import with_statistics
from convert.stream.publish import OutputState, check_room, existing_parent, output_states, remove_empty
from convert.stream.siblings import remove_abandoned
from convert.stream.workers import Workers

__all__ = [
    "OutputState",
    "Progress",
    "Report",
    "Workers",
    "Writing",
    "WrittenOutput",
    "carry_out",
    "check_room",
    "existing_parent",
    "output_states",
    "outputs_to_make",
    "remove_abandoned",
    "remove_empty",
    "with_statistics",
]
