"""The tensor types of ggml that the `gguf` package does not list yet, added to its enumeration and its sizes."""

from __future__ import annotations

from typing import Final

from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

# ggml.h, ggml-common.h @ 0c1e570: name, number, weights in a block, bytes of a block.
_MISSING: Final = (("Q2_0", 42, 64, 18),)


def _add(name: str, number: int, block_size: int, type_size: int) -> None:
    """Add a member as Python's own enumerations would have it: found by name and number, pickled by its number."""
    if number in GGMLQuantizationType._value2member_map_:
        return
    member = int.__new__(GGMLQuantizationType, number)
    member._name_, member._value_ = name, number
    type.__setattr__(GGMLQuantizationType, name, member)
    GGMLQuantizationType._member_names_.append(name)
    GGMLQuantizationType._member_map_[name] = GGMLQuantizationType._value2member_map_[number] = member
    GGML_QUANT_SIZES[member] = block_size, type_size


for _row in _MISSING:
    _add(*_row)
