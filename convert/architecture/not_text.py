"""What a checkpoint may hold beside the text model that GGUF's file is of: encoders of images and sound, and heads.

Source: conversion/base.py, TextModel.filter_tensors @ 0c1e570.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from convert.architecture.family import Family
    from convert.architecture.hyperparameters import Hyperparameters

HEAD: Final = re.compile(
    r"(^|\.)(v_head|value_head|critic_head|reward_head|score|classifier|regression_head|qa_outputs)\."
)
_LANGUAGE: Final = "language_model."
_NOT_TEXT: Final = re.compile(
    r"^(mlp|(vit|vpm|siglip2|conformer|merger|resampler|sound_encoder|sound_projection|speech_embeddings)\.)|"
    r"(visual|talker|token2wav|code2wav|projector|patch_merger|patch_merge_mlp|model\.connector)\.|(vision|audio)[._]|"
    r"pre_mm_projector_norm|image_newline|view_seperator|patch_embed"
)


def text_name(h: Hyperparameters, name: str) -> str:
    """Give a tensor's name as the text model alone has it."""
    return name.replace(_LANGUAGE, "") if h.is_whole and not _NOT_TEXT.search(name) else name


def why_left_out(family: Family, h: Hyperparameters, name: str) -> str | None:
    """Say why GGUF has no use for a tensor that its family would have no place for; None where it has one."""
    if h.is_whole and _NOT_TEXT.search(name):
        return "a text model has none of it"
    return family.left_out(h, name)
