"""Which tensor gets which type, decided over a whole file.

file_types   what a file can be asked for: a row each, and how people write its name
float_types  what the converter keeps in float32
roles        what a tensor is in a model, by its name
facts        what a choice depends on beyond the tensor
rules        where a file type's mixture departs from its ordinary type: rows
options      what may be asked for beyond the type
patterns     C++'s regular expressions
choose       the choice for every tensor, and its reason
"""

from convert.quant_mix.choose import (
    TensorToType,
    TypeChoice,
    choose_types,
    file_order,
    may_be_quantized,
    needs_importance,
)
from convert.quant_mix.facts import ModelFacts
from convert.quant_mix.file_types import FILE_TYPES, SETS, FileType, find_file_types, in_words
from convert.quant_mix.float_types import PACKED, choose_float_types
from convert.quant_mix.options import NO_OPTIONS, Lossless, QuantizeOptions, quantize_options
from convert.quant_mix.roles import Role, ggml_n_dims, role_of

__all__ = [
    "FILE_TYPES",
    "NO_OPTIONS",
    "PACKED",
    "SETS",
    "FileType",
    "Lossless",
    "ModelFacts",
    "QuantizeOptions",
    "Role",
    "TensorToType",
    "TypeChoice",
    "choose_float_types",
    "choose_types",
    "file_order",
    "find_file_types",
    "ggml_n_dims",
    "in_words",
    "may_be_quantized",
    "needs_importance",
    "quantize_options",
    "role_of",
]
