"""Tensors that have no place in a model, and places that no tensor has: what they are, in the checkpoint's words."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from gguf import get_tensor_name_map

from convert.architecture.family import n_layers
from convert.errors import PlanError
from convert.shown import shown_list

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from convert.architecture.family import Family
    from convert.architecture.hyperparameters import Hyperparameters

_LAYER: Final = re.compile(r"(?:^|\.)(?:layers|h|blocks|blk)\.(\d+)\.")
_BLOCK: Final = re.compile(r"blk\.(\d+)\.(.+)")
_MOST: Final = 5
# Outside of blocks: transformers' name of most, and Meta's.
_USUAL: Final = {
    "token_embd": ("model.embed_tokens", "tok_embeddings"),
    "output_norm": ("model.norm", "norm"),
    "output": ("lm_head", "output"),
}
# What a name left over has in it → what it is, what to do; the first row that fits the first name is told.
_KINDS: Final = (
    (
        r"lora_|adapter|base_layer|modules_to_save|ia3_",
        "an adapter's",
        "merge it first: `model.merge_and_unload()`, then `save_pretrained()`",
    ),
    (
        r"(^|\.)(v_head|value_head|score|classifier|reward|critic|qa_outputs|regression_head)",
        "a head's for values, rewards or classes",
        "save the language model alone",
    ),
    (
        r"(^|\.)(mtp|nextn|eh_proj|enorm|hnorm|shared_head|medusa|draft|eagle)",
        "of layers or heads that predict several tokens",
        "save the model without them",
    ),
    (
        r"vision|visual|image|vit\.|siglip|clip|mm_projector|multi_modal|audio|speech|patch_embed|resampler",
        "an encoder's of images or sound",
        "only text models are converted: take the language model out of it and save that",
    ),
    (
        r"q(weight|zeros)$|scales$|g_idx$|absmax|quant_(state|map)|weight_(scale|packed|shape|zero_point)|_scale_inv$",
        "of a packed weight",
        "take config.json from where the weights are from: its `quantization_config` says how they are packed",
    ),
    (
        r"inv_freq|cached|_ids$|running_(mean|var)|num_batches|_buffer|mask$|freqs",
        "buffers, which a model computes anew",
        "save it again with `save_pretrained()`, which leaves them out",
    ),
    (r"exp_avg|optimizer|momentum|master", "an optimizer's", "save the model's `state_dict()` alone"),
    (
        r"(q|k|query|key)_?(layer)?norm|lambda|(pre|post)_\w+norm|ls\d\.gamma",
        "of norms or factors that this architecture has not",
        "`architectures` in config.json may name another model than the weights are of",
    ),
)


def no_place(h: Hyperparameters, names: Sequence[str]) -> PlanError:
    """Make the error for tensors that nothing maps, which says what they are by their names."""
    n = n_layers(h)
    what, hint = _what(names, n)
    said = f"{len(names)} tensors have no place in a {h.architecture} of {n} layers"
    return PlanError(f"{said}: {shown_list([*names], most=_MOST)}{what}", hint=hint)


def _what(names: Sequence[str], n_layers_said: int) -> tuple[str, str]:
    for pattern, what, hint in _KINDS:
        n_found = sum(re.search(pattern, name) is not None for name in names)
        if n_found * 2 > len(names):
            return f"; they look like {what}" if n_found > 1 else f"; it looks like {what}", hint
    layers = [int(found[1]) for name in names if (found := _LAYER.search(name))]
    if len(layers) == len(names) and min(layers) >= n_layers_said:
        return (
            f"; the weights have layers up to {max(layers)}",
            f"`num_hidden_layers` in config.json is {n_layers_said}: take config.json from where the weights are from",
        )
    return "", (
        "they are called otherwise than this architecture's: `architectures` in config.json may name another model, or "
        "the weights were saved by another program than transformers"
    )


def lacks(
    family: Family, stored: Mapping[str, str], missing: Sequence[tuple[str, int | None]], *, n_stored: int
) -> PlanError:
    """Make the error for places that no tensor has, by the names that they would have in this checkpoint.

    stored: in GGUF → in the checkpoint, of what is there. missing: in GGUF, and the place in a stack.
    """
    names = [_called(family, stored, source, index) for source, index in missing]
    hint = f"it has {n_stored} tensors; a shard may be missing, or config.json belongs to another model"
    if {source for source, _ in missing} == {"output.weight"}:
        hint = 'if the output is the embeddings, config.json must say `"tie_word_embeddings": true`'
    listed = shown_list(names, most=_MOST)
    return PlanError(f"the checkpoint lacks {len(missing)} tensors that the model needs: {listed}", hint=hint)


def _called(family: Family, stored: Mapping[str, str], source: str, index: int | None) -> str:
    """Name a tensor as its like in another block is, or else as one that begins as the others do."""
    block = _BLOCK.fullmatch(source)
    for other, name in stored.items() if block else ():
        found = _BLOCK.fullmatch(other)
        if block and found and found[2] == block[2]:
            there = name.replace(f".{found[1]}.", f".{block[1]}.", 1)
            return there if index is None else re.sub(r"experts\.\d+", f"experts.{index}", there)
    base, _, suffix = source.rpartition(".")
    if base in _USUAL:
        return f"{_USUAL[base][not any(name.startswith('model.') for name in stored.values())]}.{suffix}"
    spellings = get_tensor_name_map(family.arch, int(block[1]) + 1 if block else 1).mapping
    known = [key for key, (_, name) in spellings.items() if name == base and key != base]
    beside = list(stored.values())
    best = max(known, key=lambda key: max((_n_alike(key, name) for name in beside), default=0), default=base)
    return f"{best}.{suffix}" if index is None else f"{best}.{suffix}[{index}]"


def _n_alike(one: str, other: str) -> int:
    """Count the characters with which both begin."""
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
