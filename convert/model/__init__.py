"""The model in GGUF's words, and what gives it: checkpoints and GGUF files.

    a model's directory  ── open_model ──▶ Model ── gguf_model ──▶┐
    a float GGUF file    ── read_gguf_model ─────────────────────▶├─ GGUFModel ──▶ plan, inspect, verify

    gguf_model        what a GGUFModel is
    request           which model is meant: a path, adapters to merge, a tokenizer's splitting
    from_checkpoint   a directory, decoded, merged and mapped by its family
    pooling           what an embedding model does with its last states
    from_gguf         a file as it is, whole or in parts
    decoded           its quantized tensors as floats, for quantizing them again
    left_out          what of a checkpoint is in none of the tensors, and why

No weight is read here.
"""

from convert.model.decoded import Decoded
from convert.model.from_checkpoint import Model, gguf_model, open_model
from convert.model.from_ggml import read_ggml_model
from convert.model.from_gguf import gguf_model_of, read_gguf_model, stored_model
from convert.model.gguf_model import GGUFModel, float_values, tensor_type
from convert.model.left_out import LeftOut, left_out
from convert.model.request import (
    DefinitionRequest,
    FrontEnd,
    Merge,
    ModelRequest,
    PathLike,
    absolute,
    as_request,
    model_request,
)

__all__ = [
    "Decoded",
    "DefinitionRequest",
    "FrontEnd",
    "GGUFModel",
    "LeftOut",
    "Merge",
    "Model",
    "ModelRequest",
    "PathLike",
    "absolute",
    "as_request",
    "float_values",
    "gguf_model",
    "gguf_model_of",
    "left_out",
    "model_request",
    "open_model",
    "read_ggml_model",
    "read_gguf_model",
    "stored_model",
    "tensor_type",
]
