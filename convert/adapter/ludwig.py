"""Ludwig's fine-tuned directories: an adapter as peft saves it, some folders down.

    RESULTS/model/model_weights/          adapter_config.json, adapter_model.safetensors
    RESULTS/model/model_hyperparameters.json    base_model; quantization: what the base was packed to for the training

RESULTS, `model` or `model_weights` may be named.
Source: ludwig 0.10, globals.py (MODEL_WEIGHTS_FILE_NAME, MODEL_HYPERPARAMETERS_FILE_NAME); models/llm.py, save;
schema/llms/quantization.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from convert.checkpoint.json_file import read_json
from convert.fields import Fields
from convert.shown import shown

if TYPE_CHECKING:
    from pathlib import Path

_WEIGHTS: Final = "model_weights"
_FILE: Final = "model_hyperparameters.json"


@dataclass(frozen=True, slots=True)
class LudwigModel:
    """What Ludwig says of an adapter. packed_to: the base's type when it was trained, as nf4-dq; None where none."""

    base: str | None
    packed_to: str | None


def ludwig_weights(path: Path) -> Path | None:
    """Return the folder of the adapter in a directory of Ludwig's; None where it is none."""
    for folder in (path / _WEIGHTS, path / "model" / _WEIGHTS):
        if (folder / "adapter_config.json").is_file() and (folder.parent / _FILE).is_file():
            return folder
    return None


def read_ludwig(weights: Path) -> LudwigModel | None:
    """Read what lies beside an adapter's folder; None where it is not Ludwig's. Raises CheckpointError."""
    path = weights.parent / _FILE
    if weights.name != _WEIGHTS or not path.is_file():
        return None
    said = Fields(read_json(path), shown(path))
    return LudwigModel(said.text("base_model"), _packed_to(said.inner("quantization")))


def _packed_to(said: Fields) -> str | None:
    bits = said.optional_size("bits")
    if bits == 4:  # noqa: PLR2004 - Ludwig packs to 4 or 8 bits, by bitsandbytes
        kind = said.text("bnb_4bit_quant_type") or "nf4"
        doubled = said.get("bnb_4bit_use_double_quant") is not False  # Ludwig's default is true
        return f"{kind}-dq" if doubled else kind
    return None if bits is None else "int8"
