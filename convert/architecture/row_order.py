"""The order of a head's rows in queries and keys, which belongs to whoever named the tensor, not to the model.

Rotary embedding turns pairs of numbers. Transformers pairs row i with row i + n/2 of a head (*halves*), Meta, Mistral
and torchtune row 2i with 2i + 1 (*pairs*), and GGUF's llama wants pairs:

    halves   0 1 2 3 | 4 5 6 7          pairs   0 4 | 1 5 | 2 6 | 3 7

Source: conversion/llama.py, LlamaModel.modify_tensors @ 0c1e570, which goes by the source's name too; transformers,
models/llama/convert_llama_weights_to_hf.py, permute; gguf's TensorNameMap for the spellings.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from convert.checkpoint.views import interleaved
from convert.errors import PlanError

if TYPE_CHECKING:
    from convert.checkpoint import Tensor

_IN_HALVES: Final = frozenset({"q_proj", "k_proj"})
_IN_PAIRS: Final = frozenset({"wq", "wk", "q_proj_no_perm", "k_proj_no_perm"})
_OWN: Final = re.compile(r"(blk\.\d+\.\w+|token_embd|token_embd_norm|output|output_norm)\.(weight|bias)")


def is_ggufs_own(name: str) -> bool:
    """Whether a tensor has GGUF's name already: then it is as GGUF has it, and nothing is done to its values."""
    return _OWN.fullmatch(name) is not None


def rotary_rows(tensor: Tensor, *, head_dim: int, in_pairs: bool) -> Tensor:
    """Bring a query or key, weight or bias, into the order that its GGUF architecture runs on.

    in_pairs: what that order is. Raises PlanError for a spelling whose order is another, or is not known.
    """
    spelling = tensor.name.removesuffix(".weight").removesuffix(".bias").rpartition(".")[2]
    if is_ggufs_own(tensor.name) or (spelling in _IN_PAIRS and in_pairs) or (spelling in _IN_HALVES and not in_pairs):
        return tensor
    if spelling in _IN_HALVES:
        return interleaved(tensor, head_dim)
    order = "has its heads' rows in Meta's order" if spelling in _IN_PAIRS else "has rows in an order that is not known"
    raise PlanError(
        f"tensor `{tensor.name}` {order}, which this model's GGUF has no use for",
        hint="convert the checkpoint to transformers' names first, whose queries are `self_attn.q_proj.weight`",
    )
