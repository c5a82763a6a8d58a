"""Which tensor gets which type, decided over a whole file.

file_types   what a file can be asked for: a row each
choose       the choice for every tensor, by rules with their source
"""

from convert.quant_mix.choose import (
    ModelFacts,
    TensorToType,
    TypeChoice,
    choose_float_types,
    choose_types,
    file_order,
    ggml_n_dims,
)
from convert.quant_mix.file_types import FILE_TYPES, FileType

__all__ = [
    "FILE_TYPES",
    "FileType",
    "ModelFacts",
    "TensorToType",
    "TypeChoice",
    "choose_float_types",
    "choose_types",
    "file_order",
    "ggml_n_dims",
]
