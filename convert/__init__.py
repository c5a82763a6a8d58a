"""PyTorch and Hugging Face checkpoints to GGUF files, byte for byte what llama.cpp makes of them.

Everything the commands do is a function here; modules are loaded when a name is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from convert.conversion import convert_all, convert_one, plan_all, plan_one, plan_quantize, quantize
    from convert.dequantization import DequantizeRequest, dequantize, plan_dequantize
    from convert.errors import ConvertError
    from convert.inspection import inspect
    from convert.model import DefinitionRequest, FrontEnd, ModelRequest, model_request
    from convert.plan import OutputRequest
    from convert.quant_mix import quantize_options
    from convert.stream import Writing, carry_out

__all__ = [
    "ConvertError",
    "DefinitionRequest",
    "DequantizeRequest",
    "FrontEnd",
    "ModelRequest",
    "OutputRequest",
    "Writing",
    "carry_out",
    "convert_all",
    "convert_one",
    "dequantize",
    "inspect",
    "model_request",
    "plan_all",
    "plan_dequantize",
    "plan_one",
    "plan_quantize",
    "quantize",
    "quantize_options",
]

_ROOMS: Final = {
    "ConvertError": "errors",
    "DefinitionRequest": "model",
    "FrontEnd": "model",
    "DequantizeRequest": "dequantization",
    "ModelRequest": "model",
    "OutputRequest": "plan",
    "Writing": "stream",
    "carry_out": "stream",
    "convert_all": "conversion",
    "convert_one": "conversion",
    "dequantize": "dequantization",
    "inspect": "inspection",
    "model_request": "model",
    "plan_all": "conversion",
    "plan_dequantize": "dequantization",
    "plan_one": "conversion",
    "plan_quantize": "conversion",
    "quantize": "conversion",
    "quantize_options": "quant_mix",
}


def __getattr__(name: str) -> Any:  # noqa: ANN401 - whatever the name is
    if name not in _ROOMS:
        raise AttributeError(f"module 'convert' has no attribute {name!r}")
    return getattr(import_module(f"convert.{_ROOMS[name]}"), name)
