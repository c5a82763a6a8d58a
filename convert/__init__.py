"""PyTorch and Hugging Face checkpoints to GGUF files, byte for byte what llama.cpp makes of them.

Everything the commands do is a function here; modules are loaded when a name is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from convert.conversion import (
        convert_all,
        convert_one,
        merge,
        plan_all,
        plan_merge,
        plan_one,
        plan_quantize,
        plan_split,
        quantize,
        split,
    )
    from convert.dequantization import DequantizeRequest, dequantize, plan_dequantize
    from convert.errors import ConvertError
    from convert.inspection import inspect
    from convert.model import DefinitionRequest, FrontEnd, ModelRequest, model_request
    from convert.plan import OutputRequest, SplitRequest
    from convert.quant_mix import quantize_options
    from convert.stream import Writing, carry_out

__all__ = [
    "ConvertError",
    "DefinitionRequest",
    "DequantizeRequest",
    "FrontEnd",
    "ModelRequest",
    "OutputRequest",
    "SplitRequest",
    "Writing",
    "carry_out",
    "convert_all",
    "convert_one",
    "dequantize",
    "inspect",
    "merge",
    "model_request",
    "plan_all",
    "plan_dequantize",
    "plan_merge",
    "plan_one",
    "plan_quantize",
    "plan_split",
    "quantize",
    "quantize_options",
    "split",
]

_ROOMS: Final = {
    "ConvertError": "errors",
    "DefinitionRequest": "model",
    "FrontEnd": "model",
    "DequantizeRequest": "dequantization",
    "ModelRequest": "model",
    "OutputRequest": "plan",
    "SplitRequest": "plan",
    "Writing": "stream",
    "carry_out": "stream",
    "convert_all": "conversion",
    "convert_one": "conversion",
    "dequantize": "dequantization",
    "inspect": "inspection",
    "merge": "conversion",
    "model_request": "model",
    "plan_all": "conversion",
    "plan_dequantize": "dequantization",
    "plan_merge": "conversion",
    "plan_one": "conversion",
    "plan_quantize": "conversion",
    "plan_split": "conversion",
    "quantize": "conversion",
    "quantize_options": "quant_mix",
    "split": "conversion",
}


def __getattr__(name: str) -> Any:  # noqa: ANN401 - whatever the name is
    if name not in _ROOMS:
        raise AttributeError(f"module 'convert' has no attribute {name!r}")
    return getattr(import_module(f"convert.{_ROOMS[name]}"), name)
