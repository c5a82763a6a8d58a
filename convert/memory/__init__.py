"""What a model takes in every precision, to the byte, before anything is downloaded, loaded or converted.

    model's tensors (name, shape) ── groups ──▶ which part of the model; does bitsandbytes pack it
                                  ── bitsandbytes ──▶ bytes a packed layer takes
    plan of the GGUF files        ── groups ──▶ bytes a part takes in each file

Two notions, which people mix up:

    nbytes      the weights as they are stored: every byte from which values are made, statistics included; what a
                download is, and what the weights need in memory
    footprint   transformers' `get_memory_footprint()`: parameters and buffers. It leaves bitsandbytes' statistics out,
                which are neither, and counts the rotary tables, which are in no file
"""

from __future__ import annotations

from convert.memory.groups import GROUPS, Group
from convert.memory.table import Memory, MemoryGroup, MemoryRow, measure_memory

__all__ = ["GROUPS", "Group", "Memory", "MemoryGroup", "MemoryRow", "measure_memory"]
