"""No tensor is dropped in silence: what of a checkpoint is in none of the file's tensors, by group, with the reason."""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from convert.checkpoint import Tensor


@dataclass(frozen=True, slots=True)
class LeftOut:
    """Tensors of a checkpoint that go into no file.

    group: what they are. reason: why not. examples: the first few names. other_file: what kind of file would hold them,
    `mmproj` or `mtp`; None where none would.
    """

    group: str
    n_tensors: int
    nbytes: int
    reason: str
    examples: tuple[str, ...]
    other_file: str | None = None


@dataclass(frozen=True, slots=True)
class _Group:
    name: str
    pattern: re.Pattern[str]
    reason: str
    other_file: str | None = None


_NOT_TEXT: Final = "a text model has none of it"
# The first row that a name fits. Buffers: conversion/base.py, ModelBase.prepare_tensors @ 0c1e570, and what transformers
# computes when it loads.
_GROUPS: Final = (
    _Group(
        "buffers",
        re.compile(r"(rotary_emb|rotary_pos_emb)\.|inv_freq|masked_bias$|\.attn\.bias$|\.attention\.bias$|position_ids$|num_batches_tracked$"),
        "computed when a model is loaded",
    ),
    _Group(
        "vision", re.compile(r"vision|visual|image_|(^|\.)vit\.|(^|\.)vpm\.|siglip|patch_(embed|merge)|pixel"), _NOT_TEXT, "mmproj"
    ),
    _Group("audio", re.compile(r"audio|speech|sound_|conformer|whisper|talker|token2wav|code2wav"), _NOT_TEXT, "mmproj"),
    _Group("projector", re.compile(r"projector|connector\.|resampler|mm_|multi_modal"), _NOT_TEXT, "mmproj"),
    _Group("further tokens", re.compile(r"(^|\.)mtp[._]|nextn|eh_proj|shared_head"), "layers that predict further tokens", "mtp"),
)  # fmt: skip
_OTHER: Final = _Group("others", re.compile(""), "its definition has no place for them")
_MOST_EXAMPLES: Final = 3


def left_out(
    tensors: Mapping[str, Tensor],
    used: Collection[str],
    reason_of: Callable[[str], str | None] = lambda _: None,
    other_files: Collection[str] = (),
) -> tuple[LeftOut, ...]:
    """Group the tensors that are not used.

    tensors: the checkpoint's, by name. reason_of: a definition's own reason for leaving out a name. other_files: what
    kinds of other files may be made of this checkpoint.
    """
    gathered: dict[tuple[str, str, str | None], list[Tensor]] = defaultdict(list)
    for name, tensor in tensors.items():
        if name not in used:
            group = next((group for group in _GROUPS if group.pattern.search(name)), _OTHER)
            other = group.other_file if group.other_file in other_files else None
            gathered[group.name, reason_of(name) or group.reason, other].append(tensor)
    return tuple(
        LeftOut(
            group, len(found), sum(tensor.nbytes for tensor in found), reason,
            tuple(tensor.name for tensor in found[:_MOST_EXAMPLES]), other,
        )
        for (group, reason, other), found in gathered.items()
    )  # fmt: skip
