"""Test checkpoints under names that are not transformers': Meta's (Mistral's, torchtune's), `_no_perm`, GGUF's own.

The values are as the row's own weights are; what differs is the order in which a reader must take queries' and keys'
rows, which the reference decides by the name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from checkpoint_configs import llama, mistral
from checkpoint_layouts import Layout
from checkpoint_row import CheckpointRow
from checkpoint_weights import META_NAMES, OWN_NAMES, renamed

if TYPE_CHECKING:
    from checkpoint_row import Weights


def _no_perm(weights: Weights) -> Weights:
    return renamed(weights, {"q_proj": "q_proj_no_perm", "k_proj": "k_proj_no_perm"})


NAMING_ROWS: Final[tuple[CheckpointRow, ...]] = (
    CheckpointRow(
        "metas-names",
        "queries and keys under Meta's names are in GGUF's order, biases too; grouped heads",
        llama(attention_bias=True, num_key_value_heads=2),
        change_weights=lambda weights: renamed(weights, META_NAMES),
    ),
    CheckpointRow(
        "metas-names-in-a-pth",
        "what llama-stack and torchtune save, in a file of their name",
        llama(),
        layout=Layout.STATE_DICT_PTH,
        change_weights=lambda weights: renamed(weights, META_NAMES),
        refused_by_reference="it reads no bare state dict",
        twin=Layout.TORCH_BIN,
    ),
    CheckpointRow(
        "no-perm-names",
        "queries and keys that say by their name that they are in GGUF's order",
        mistral(),
        dtype="bfloat16",
        change_weights=_no_perm,
    ),
    CheckpointRow(
        "ggufs-names",
        "a state dict with the names of a GGUF",
        llama(attention_bias=True),
        change_weights=lambda weights: renamed(weights, OWN_NAMES),
    ),
)
