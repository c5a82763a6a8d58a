"""What to say to someone whose directory has no weights that can be read: it is nearly always one of a few mistakes."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Final

from convert.checkpoint.index import cached_name
from convert.errors import CheckpointError, Remedy
from convert.shown import nearest, shown, shown_list

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_LOOKED_FOR: Final = "`model*.safetensors`, `pytorch_model*.bin` or one `.pt`, `.pth` or `.ckpt`"
_WANTED: Final = "a checkpoint is a directory with config.json, weights and tokenizer, as transformers saves it"
# As a path: the slashes after the scheme have become one.
_HUB_PAGE: Final = re.compile(r"https?:/+(?:www\.)?(?:huggingface\.co|hf\.co)/([\w.-]+/[\w.-]+)[^\s]*")
_HUB_ID: Final = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
# What trainers leave beside the weights: transformers/trainer.py and accelerate/utils/constants.py, OPTIMIZER_NAME and
# its neighbours.
TRAINER_FILE: Final = re.compile(
    r"(optimizer|scheduler|scaler|sampler|dl_state_dict|training_args|trainer_state|rng_state|random_states|"
    r"custom_checkpoint)(_\d+)?\.(pt|pth|bin)|consolidated.*\.pth"
)
# Parts of a model that only the program which wrote them can put together → what they are, what does it.
SHARDED_PARTS: Final[tuple[tuple[re.Pattern[str], str, str], ...]] = (
    (
        re.compile(r".*\.distcp|pytorch_model_fsdp_\d+|\.metadata"),
        "it has a part of a checkpoint of FSDP (torch.distributed.checkpoint)",
        "copy the whole of DIRECTORY: the files `*.distcp`, and `.metadata` beside them, whose name hides it",
    ),
    (
        re.compile(
            r"zero_to_fp32\.py|global_step\d+|.*zero_pp_rank.*|mp_rank_\d+_model_states\.pt|.*_optim_states\.pt"
        ),
        "it has a checkpoint of DeepSpeed ZeRO",
        "put it together with the program beside it: `python zero_to_fp32.py . OUT`",
    ),
    (
        re.compile(r"(model|optim|extra_state)_world_size_\d+_rank_\d+\.pt"),
        "it has one part for each rank, as verl saves FSDP models",
        "put it together: `python -m verl.model_merger merge --backend fsdp --local_dir DIRECTORY --target_dir OUT`",
    ),
)
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
        "put Meta's params.json and tokenizer.model beside them",
    ),
    (
        lambda name: re.fullmatch(r"consolidated.*\.safetensors", name) is not None,
        "it has Mistral's original format",
        "put Mistral's params.json beside them, or get the form for transformers: `model*.safetensors`",
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
        lambda name: name.endswith((".safetensors", ".bin")) and not TRAINER_FILE.fullmatch(name),
        "it has weights under other names",
        "name the file instead of the directory, or rename it to `model.safetensors` or `pytorch_model.bin`",
    ),
    (
        lambda name: name.startswith(("checkpoint-", "snapshots", "epoch_", "step_")),
        "it has directories of checkpoints",
        "name one of them",
    ),
)


def missing_path(path: Path) -> CheckpointError:
    """Say that a path does not exist, and what was meant: a name that is nearly right, a model of the Hub, its page."""
    here = Path.cwd()
    asked = str(path.relative_to(here) if path.is_relative_to(here) else path)
    if page := _HUB_PAGE.search(asked):
        address = re.sub(":/+", "://", page[0])
        return CheckpointError(f"{shown(address)} is a page of the Hugging Face hub", hint=_of_the_hub(page[1]))
    hint = nearest(path) or (_of_the_hub(asked) if _HUB_ID.fullmatch(asked) else None)
    return CheckpointError(f"{shown(path)} does not exist", hint=hint or _WANTED)


def _of_the_hub(name: str) -> str:
    """Say where a model of the Hub is: in its cache on this machine, or to be downloaded."""
    home = os.environ.get("HF_HOME") or str(Path.home() / ".cache" / "huggingface")
    cache = Path(os.environ.get("HF_HUB_CACHE") or f"{home}/hub") / f"models--{name.replace('/', '--')}"
    if any(cache.glob("snapshots/*/config.json")):
        return f"it is in the Hub's cache: name {shown(cache)}"
    return f"if that is a model on the Hugging Face hub, download it first: `hf download {name} --local-dir DIR`"


def adapters_inside(directory: Path) -> list[str]:
    """Name the folders of a directory that hold an adapter: a training run's, or one for each adapter of a model."""
    return sorted(path.parent.name for path in directory.glob("*/adapter_config.json"))


def no_weights(directory: Path, names: Sequence[str]) -> CheckpointError:
    """Say what was looked for, and what is there instead.

    names: what the directory has, sorted.
    """
    if not names:
        return CheckpointError(f"{shown(directory)} is empty, wanted a model directory")
    if (sharded := sharded_parts(directory, names)) is not None:
        return sharded
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


def sharded_parts(directory: Path, names: Sequence[str]) -> CheckpointError | None:
    """Say what puts the parts of a trainer's checkpoint together; None where there are none."""
    for pattern, what, hint in SHARDED_PARTS:
        if found := [name for name in names if pattern.fullmatch(name)]:
            message = f"{shown(directory)} has no weights of a whole model; {what}: {shown_list(found, most=4)}"
            return CheckpointError(message, hint=hint.replace("DIRECTORY", str(directory)))
    return None
