"""What to say to someone whose directory has no weights that can be read: it is nearly always one of a few mistakes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Final

from convert.checkpoint.index import cached_name
from convert.errors import CheckpointError, Remedy
from convert.shown import shown, shown_list

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_LOOKED_FOR: Final = "`model*.safetensors`, `pytorch_model*.bin` or one `.pt`, `.pth` or `.ckpt`"
_HUB_ID: Final = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
# What is there instead → what to do; the first row that fits is told.
_INSTEAD: Final[tuple[tuple[Callable[[str], bool], str, str | Remedy], ...]] = (
    (
        lambda name: name in {"adapter_model.safetensors", "adapter_model.bin"},
        "it has a LoRA adapter",
        Remedy.GIVE_BASE,
    ),
    (
        lambda name: name.endswith(".gguf"),
        "it has a GGUF",
        Remedy.QUANTIZE_GGUF,
    ),
    (
        lambda name: re.fullmatch(r"consolidated.*\.pth", name) is not None,
        "it has Meta's original format",
        "convert it with transformers' `convert_llama_weights_to_hf.py`, or download the repository's other form",
    ),
    (
        lambda name: re.fullmatch(r"consolidated.*\.safetensors", name) is not None,
        "it has Mistral's original format",
        "download the form for transformers: `model*.safetensors` and config.json",
    ),
    (
        lambda name: name.endswith((".msgpack", ".h5")) or name.startswith("tf_model"),
        "it has Flax or TensorFlow weights",
        "load them in transformers with `from_flax=True` or `from_tf=True`, then `save_pretrained()`",
    ),
    (
        lambda name: name == "qmodel.pt",
        "it has HQQ's pickle",
        "load it with hqq and save it with `save_to_safetensors()`, or get the 16-bit checkpoint",
    ),
    (
        lambda name: re.fullmatch(r"output(-\d{5}-of-\d{5})?\.safetensors", name) is not None,
        "it has what ExLlama saves, whose EXL weights are not decoded",
        "get the 16-bit checkpoint that it was made from",
    ),
    (
        lambda name: name.endswith((".safetensors", ".bin", "optimizer.pt")) and name != "training_args.bin",
        "it has weights under other names",
        "name the file instead of the directory, or rename it to `model.safetensors` or `pytorch_model.bin`",
    ),
    (
        lambda name: name.startswith(("checkpoint-", "global_step", "snapshots")),
        "it has directories of checkpoints",
        "name one of them",
    ),
)


def missing_path(path: Path) -> CheckpointError:
    """Say that a path does not exist; a hub id is not a path."""
    hint = "a checkpoint is a directory with config.json, weights and tokenizer, as transformers saves it"
    here = Path.cwd()
    asked = str(path.relative_to(here) if path.is_relative_to(here) else path)
    if _HUB_ID.fullmatch(asked):
        hint = f"if that is a model on the Hugging Face hub, download it first: `hf download {asked} --local-dir DIR`"
    return CheckpointError(f"{shown(path)} does not exist", hint=hint)


def adapters_inside(directory: Path) -> list[str]:
    """Name the folders of a directory that hold an adapter: a training run's, or one for each adapter of a model."""
    return sorted(path.parent.name for path in directory.glob("*/adapter_config.json"))


def no_weights(directory: Path, names: Sequence[str]) -> CheckpointError:
    """Say what was looked for, and what is there instead.

    names: what the directory has, sorted.
    """
    if not names:
        return CheckpointError(f"{shown(directory)} is empty, wanted a model directory")
    for fits, what, hint in _INSTEAD:
        if found := [name for name in names if fits(name)]:
            message = f"{shown(directory)} has no weights, looked for {_LOOKED_FOR}; {what}: {shown_list(found)}"
            if isinstance(hint, Remedy):
                return CheckpointError(message, remedies=(hint,), facts={"adapter": directory})
            return CheckpointError(message, hint=hint)
    if inner := adapters_inside(directory):
        return CheckpointError(f"{shown(directory)} has adapters in it: {shown_list(inner)}", hint="name one of them")
    cached = cached_name(directory)
    again = f"the Hub's cache has only a part of it: `hf download {cached}`" if cached else None
    return CheckpointError(f"{shown(directory)} has no weights, looked for {_LOOKED_FOR}", hint=again)
