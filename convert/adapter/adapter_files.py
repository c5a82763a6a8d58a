"""An adapter's directory, opened: its config, and where its tensors lie.

adapter_config.json           rank, alpha, targets, the base's name
adapter_model.safetensors     or adapter_model.bin: factors, biases, whole modules
lit_model.pth.lora            LitGPT's factors instead, beside its own two configs

Only headers are read.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from convert.adapter.config import CONFIG_FILE, AdapterConfig, read_adapter_config
from convert.adapter.litgpt import LITGPT_FILE, read_litgpt_config, read_litgpt_factors
from convert.adapter.ludwig import ludwig_weights, read_ludwig
from convert.checkpoint import StoredType
from convert.checkpoint.index import link_notes, merge
from convert.checkpoint.no_weights import missing_path
from convert.checkpoint.safetensors_file import read_safetensors
from convert.checkpoint.torch_file import read_torch_file
from convert.checkpoint.wrapped_names import unwrap_names
from convert.errors import CheckpointError, UnsupportedError
from convert.shown import shown, shown_list

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from convert.checkpoint import TensorSource

SAFETENSORS_FILE: Final = "adapter_model.safetensors"
TORCH_FILE: Final = "adapter_model.bin"
_TRAINERS_FILE: Final = "pytorch_model.bin"  # where a Trainer before transformers 4.30 left an adapter's tensors
# What old peft saved beside the factors, of old transformers' models: a model computes it anew.
_BUFFERS: Final = ("inv_freq", "cos_cached", "sin_cached", "masked_bias", "position_ids")
_MLX_FILE: Final = "adapters.safetensors"
_TOKENIZER_FILES: Final = ("tokenizer.json", "tokenizer.model", "vocab.json")
# pytorch_model_fsdp.bin is what transformers' Trainer saves of the same adapter, to go on from it with FSDP.
_MODEL_FILES: Final = re.compile(
    r"model.*\.safetensors(\.index\.json)?|pytorch_model(?!_fsdp\.bin$).*\.bin(\.index\.json)?"
)
FLOATS: Final = (StoredType.F32, StoredType.F16, StoredType.BF16)


@dataclass(frozen=True, slots=True)
class Adapter:
    """One adapter, opened. tensors: by the names in its file, without what training wrappers put there."""

    directory: Path
    config: AdapterConfig
    tensors: Mapping[str, TensorSource]
    notes: tuple[str, ...]

    @property
    def has_tokenizer(self) -> bool:
        """Whether a tokenizer was saved beside it."""
        return any((self.directory / name).is_file() for name in _TOKENIZER_FILES)


def is_adapter(path: Path) -> bool:
    """Whether a directory holds an adapter and no model's weights, or a file is an adapter's.

    MODEL may be one: its base is then looked for.
    """
    if not path.is_dir():
        return path.is_file() and path.name in (SAFETENSORS_FILE, TORCH_FILE, LITGPT_FILE)
    try:
        names = [entry.name for entry in path.iterdir()]
    except OSError:
        return False  # opening it says why
    if ludwig_weights(path) is not None:
        return True
    if LITGPT_FILE in names:
        return "lit_model.pth" not in names  # LitGPT merges what it has trained
    has_adapter = any(name in (CONFIG_FILE, SAFETENSORS_FILE, TORCH_FILE, _MLX_FILE) for name in names)
    others = [name for name in names if _MODEL_FILES.fullmatch(name)]
    own = {"config.json", SAFETENSORS_FILE, TORCH_FILE}
    return has_adapter and (not others or (others == [_TRAINERS_FILE] and not own.intersection(names)))


def adapter_directory(path: Path) -> Path:
    """Return the directory of an adapter, which may be given as a file in it, or as Ludwig's directory around it."""
    return path.parent if path.is_file() else ludwig_weights(path) or path


def open_adapter(path: Path) -> Adapter:
    """Open an adapter's directory, or the directory of the file named.

    Raises CheckpointError for what is missing, broken or hostile; UnsupportedError for an adapter of another kind.
    """
    directory = adapter_directory(path)
    if not directory.is_dir():
        raise missing_path(path)
    if (directory / _MLX_FILE).is_file() and not _has_weights(directory):
        raise UnsupportedError(
            f"{shown(directory)} has {_MLX_FILE}, an adapter of MLX, which is not read",
            hint="fuse it where it was trained: `mlx_lm.fuse --model BASE --adapter-path ADAPTER`, and convert that",
        )
    config = adapter_config(directory)
    sources, notes = read_litgpt_factors(directory) if _is_litgpts(directory) else _read(directory)
    if not sources:
        raise CheckpointError(f"{shown(directory)} has no tensors in its adapter")
    buffers = [name for name in sources if name.endswith(_BUFFERS)]
    notes = (*notes, *([f"left out of the adapter: {len(buffers)} buffers"] if buffers else ()))
    tensors, more_notes = unwrap_names({name: source for name, source in sources.items() if name not in set(buffers)})
    _check_types(tensors)
    _refuse_empty(directory, tensors)
    if (ludwig := read_ludwig(directory)) is not None and ludwig.packed_to is not None:
        told = f"Ludwig trained it on the base in {ludwig.packed_to}: taken through that first, it meets the same"
        more_notes = (*more_notes, told)
    return Adapter(directory, config, tensors, (*notes, *more_notes))


def adapter_config(directory: Path) -> AdapterConfig:
    """Read what an adapter says of itself; errors as for `open_adapter`."""
    if _is_litgpts(directory):
        return read_litgpt_config(directory)
    config, ludwig = read_adapter_config(directory), read_ludwig(directory)
    return config if ludwig is None or config.base is not None else replace(config, base=ludwig.base)


def _is_litgpts(directory: Path) -> bool:
    return (directory / LITGPT_FILE).is_file() and not (directory / CONFIG_FILE).is_file()


def _has_weights(directory: Path) -> bool:
    return any((directory / name).is_file() for name in (SAFETENSORS_FILE, TORCH_FILE))


def _read(directory: Path) -> tuple[dict[str, TensorSource], tuple[str, ...]]:
    path = directory / SAFETENSORS_FILE
    if path.is_file():
        passed_over = (f"reads {shown(path.name)}, passes over {shown(TORCH_FILE)}",)
        notes = link_notes(directory, [path])
        return merge([read_safetensors(path)]), (*notes, *passed_over) if (directory / TORCH_FILE).is_file() else notes
    path = directory / TORCH_FILE
    path = path if path.is_file() else directory / _TRAINERS_FILE
    if not path.is_file():
        names = sorted(entry.name for entry in directory.iterdir())
        raise CheckpointError(
            f"{shown(directory)} has neither {SAFETENSORS_FILE} nor {TORCH_FILE}; it has {shown_list(names)}",
            hint="an adapter is a directory as peft's save_pretrained() writes it",
        )
    file = read_torch_file(path)
    return merge([file.sources]), (*file.notes, *link_notes(directory, [path]))


def _refuse_empty(directory: Path, tensors: Mapping[str, TensorSource]) -> None:
    """Refuse what DeepSpeed leaves of parameters that are spread over its workers."""
    if not any(source.nbytes for source in tensors.values()):
        raise CheckpointError(
            f"every tensor of the adapter {shown(directory)} is empty",
            hint="DeepSpeed ZeRO-3 saves empty ones unless it gathers them: set"
            " `stage3_gather_16bit_weights_on_model_save`, or use its `zero_to_fp32.py`",
        )


def _check_types(tensors: Mapping[str, TensorSource]) -> None:
    for source in tensors.values():
        if source.dtype not in FLOATS:
            wanted = "F32, F16 or BF16"
            raise CheckpointError(f"adapter tensor {shown(source.name)} is {source.dtype.value}, wanted {wanted}")
