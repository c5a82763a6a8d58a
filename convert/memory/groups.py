"""Which part of the model a tensor belongs to, and whether bitsandbytes would pack it: decided by name and shape alone.

What bitsandbytes packs is what transformers builds as `nn.Linear` and does not spare: every linear layer but the output
head. Its mixtures of experts are not such layers: since version 5 their experts are one parameter of three dimensions,
and the router is a parameter too. Checkpoints store them one by one all the same, so names must tell.
Source: transformers 5.23, quantizers/base.py, get_keys_to_not_convert; integrations/bitsandbytes.py,
replace_with_bnb_linear; models/*/modeling_*.py, where each `experts` and each router was looked up.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING, Final, Literal, get_args

if TYPE_CHECKING:
    from collections.abc import Iterable

Group = Literal["embeddings", "attention", "feed-forward", "experts", "norms", "output", "other"]
Shape = tuple[int, ...]

GROUPS: Final[tuple[Group, ...]] = get_args(Group)

# A part of a dotted name, as Hugging Face models call their modules → the group; the first row that fits decides.
_MODULES: Final[tuple[tuple[re.Pattern[str], Group], ...]] = (
    (re.compile(r".*norm.*|ln(_.*|\d*)", re.IGNORECASE), "norms"),
    (re.compile(r"lm_head|embed_out|output_projection|score"), "output"),
    (re.compile(r"experts|router"), "experts"),
    (re.compile(r".*embed.*|wte|wpe|relative_attention_bias"), "embeddings"),
    (re.compile(r".*(attn|attention).*"), "attention"),
    (re.compile(r".*(mlp|ffn|feed_?forward|moe).*|fc\d+|shared_experts?"), "feed-forward"),
)
# Below a feed-forward module, `gate` is the router; beside `up_proj` it is called `gate_proj`.
_ROUTER: Final = re.compile(r"(?:^|\.)(?:mlp|moe|block_sparse_moe|feed_forward|ffn)\.(?:gate|wg)\.")
_GGUF: Final[tuple[tuple[re.Pattern[str], Group], ...]] = (
    (re.compile(r"(?:blk\.\d+\.)?\w*norm\w*\."), "norms"),
    (re.compile(r"output\."), "output"),
    (re.compile(r"\w+_embd\w*\.|token_types\."), "embeddings"),
    (re.compile(r"blk\.\d+\.attn_"), "attention"),
    (re.compile(r"blk\.\d+\.ffn_(?:\w+_exps|gate_inp)\b"), "experts"),
    (re.compile(r"blk\.\d+\.ffn_"), "feed-forward"),
)
_PACKED_GROUPS: Final = ("attention", "feed-forward", "other")

# What old versions of transformers saved beside the weights: tables and masks that are computed.
_COMPUTED: Final = (".rotary_emb.inv_freq", ".masked_bias")
_MASK: Final = (".attn.bias", ".attention.bias")


def group_of(name: str) -> Group:
    """Say which group a checkpoint's tensor belongs to."""
    if _ROUTER.search(name):
        return "experts"
    modules = name.split(".")
    return next((group for pattern, group in _MODULES if any(map(pattern.fullmatch, modules))), "other")


def gguf_group_of(name: str) -> Group:
    """Say which group a GGUF's tensor belongs to."""
    return next((group for pattern, group in _GGUF if pattern.match(name)), "other")


def is_packed_linear(name: str, shape: Shape) -> bool:
    """Say whether transformers has bitsandbytes pack the tensor: a linear layer's weight, not the output head's."""
    return name.endswith(".weight") and len(shape) == 2 and group_of(name) in _PACKED_GROUPS  # noqa: PLR2004


def is_computed(name: str, shape: Shape) -> bool:
    """Say whether a tensor is no weight but a table that the model computes, which transformers does not load."""
    return name.endswith(_COMPUTED) or (name.endswith(_MASK) and len(shape) > 1)


def by_group(pairs: Iterable[tuple[Group, int]]) -> dict[Group, int]:
    """Add up numbers by group, in the groups' order; a group that does not occur is left out."""
    total: Counter[Group] = Counter()
    for group, number in pairs:
        total[group] += number
    return {group: total[group] for group in GROUPS if group in total}
