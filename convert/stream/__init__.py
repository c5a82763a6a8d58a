"""Carry out a plan: read each tensor once, encode it for every output, write it at its offset.

Slices of whole rows go through a few workers, each with its own reused buffers, so memory is
workers x one slice whatever the model's size. Files appear under their final names only when complete.
"""

from convert.stream.carry_out import Progress, Report, WrittenOutput, carry_out
from convert.stream.publish import OutputState, existing_parent, output_states

__all__ = ["OutputState", "Progress", "Report", "WrittenOutput", "carry_out", "existing_parent", "output_states"]
