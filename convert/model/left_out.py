"""No tensor is dropped in silence: what of a checkpoint is in none of the file's tensors, by group, with the reason."""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from convert.architecture import HEAD

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from convert.checkpoint import Tensor


@dataclass(frozen=True, slots=True)
class LeftOut:
    """Tensors of a checkpoint that go into no file.

    group: what they are. reason: why not. tensors: by name, the bytes that each is stored in. other_file: what kind of
    file would hold them, `mmproj` or `mtp`; None where none would.
    """

    group: str
    reason: str
    tensors: tuple[tuple[str, int], ...]
    other_file: str | None = None

    @property
    def nbytes(self) -> int:
        """Of all of them."""
        return sum(nbytes for _, nbytes in self.tensors)

    def without(self, names: Collection[str]) -> LeftOut:
        """Leave out what another file holds."""
        return replace(self, tensors=tuple(each for each in self.tensors if each[0] not in names))


@dataclass(frozen=True, slots=True)
class _Group:
    name: str
    pattern: re.Pattern[str]
    reason: str
    other_file: str | None = None


_NOT_TEXT: Final = "a text model has none of it"
_COMPUTED: Final = "computed when a model is loaded"
_FURTHER: Final = "layers that predict further tokens"
# The first row that a name fits. Buffers: conversion/base.py, ModelBase.prepare_tensors @ 0c1e570, and what
# transformers computes when it loads.
_ROWS: Final = (
    ("buffers", r"rotary_(pos_)?emb\.|inv_freq|masked_bias$|\.attn(ention)?\.bias$", _COMPUTED, None),
    ("buffers", r"position_ids$|num_batches_tracked$", _COMPUTED, None),
    ("vision", r"vision|visual|image_|(^|\.)v(it|pm)\.|siglip|patch_(embed|merge)|pixel", _NOT_TEXT, "mmproj"),
    ("audio", r"audio|speech|sound_|conformer|whisper|talker|token2wav|code2wav", _NOT_TEXT, "mmproj"),
    ("projector", r"projector\.|connector\.|resampler|mm_|multi_modal", _NOT_TEXT, "mmproj"),
    ("heads", HEAD.pattern, "for values, rewards or classes", None),
    ("further tokens", r"(^|\.)mtp[._]|nextn|eh_proj|shared_head", _FURTHER, "mtp"),
)
_GROUPS: Final = tuple(_Group(name, re.compile(pattern), reason, other) for name, pattern, reason, other in _ROWS)
_OTHER: Final = _Group("others", re.compile(""), "its definition has no place for them")


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
    gathered: dict[tuple[str, str, str | None], list[tuple[str, int]]] = defaultdict(list)
    for name, tensor in tensors.items():
        if name not in used:
            group = next((group for group in _GROUPS if group.pattern.search(name)), _OTHER)
            other = group.other_file if group.other_file in other_files else None
            gathered[group.name, reason_of(name) or group.reason, other].append((name, tensor.nbytes))
    return tuple(LeftOut(group, reason, tuple(found), other) for (group, reason, other), found in gathered.items())
