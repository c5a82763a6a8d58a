"""What a checkpoint says about its packing, wherever its producer writes that."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from convert.checkpoint.json_file import read_json
from convert.checkpoint.source import TORCH_FLOATS, StoredType
from convert.errors import ConfigError
from convert.fields import Fields
from convert.shown import shown

if TYPE_CHECKING:
    from convert.checkpoint.source import Checkpoint

# Files beside config.json in which a producer has said it, and what it did not need to say there.
_OTHER_FILES: Final[Mapping[str, Mapping[str, Any]]] = {
    "quantize_config.json": {"quant_method": "gptq"},  # AutoGPTQ
    "quant_config.json": {"quant_method": "awq"},  # AutoAWQ, before it wrote config.json
    "hf_quant_config.json": {"quant_method": "modelopt"},  # NVIDIA modelopt
    "quanto_qmap.json": {"quant_method": "quanto"},  # optimum-quanto
}
_SECTIONS: Final = ("quantization_config", "compression_config")
_MLX: Final[Mapping[str, Any]] = {"quant_method": "mlx"}
# A key that only one producer writes, for sections without `quant_method`; the first that is there.
_TELLING_KEYS: Final = (
    ("quant_algo", "modelopt"),
    ("config_groups", "compressed-tensors"),
    ("sparsity_config", "compressed-tensors"),
    ("desc_act", "gptq"),
)
_BITSANDBYTES_KEYS: Final = ("load_in_4bit", "load_in_8bit", "_load_in_4bit", "_load_in_8bit", "bnb_4bit_", "llm_int8_")
_NOTHING: Final[Mapping[str, Any]] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Quantization:
    """A checkpoint's own account of its packing.

    method: `quant_method`, lower case; None where nothing is declared. options: the whole section.
    dtype: what the model computes in, as `dtype` or `torch_dtype` says; None where it does not.
    where: the file that says it, for errors.
    """

    method: str | None
    options: Mapping[str, Any]
    dtype: StoredType | None
    where: str

    @property
    def fields(self) -> Fields:
        """The options, each of the type it should have."""
        return Fields(self.options, self.where)


def read_quantization(checkpoint: Checkpoint) -> Quantization:
    """Read what `config.json`, or the file of an older producer beside it, says.

    Raises ConfigError if that is of the wrong type.
    """
    directory = checkpoint.directory
    path = directory / "config.json"
    config = {} if checkpoint.config is None else checkpoint.require_config()
    dtype = _dtype(config)
    for section in _SECTIONS:
        if config.get(section):
            return _quantization(config[section], dtype, f"`{section}` in {shown(path)}", _NOTHING)
    for part, values in config.items():  # a model of several parts: `text_config` and the like
        for section in _SECTIONS:
            if isinstance(values, Mapping) and values.get(section):
                where = f"{shown(f'{part}.{section}')} in {shown(path)}"
                return _quantization(values[section], dtype or _dtype(values), where, _NOTHING)
    if is_mlx(config.get("quantization")):
        return _quantization(config["quantization"], dtype, f"`quantization` in {shown(path)}", _MLX)
    for name, defaults in _OTHER_FILES.items():
        if (directory / name).is_file():
            return _quantization(read_json(directory / name), dtype, shown(directory / name), defaults)
    return Quantization(None, _NOTHING, dtype, shown(path))


def _quantization(section: object, dtype: StoredType | None, where: str, defaults: Mapping[str, Any]) -> Quantization:
    if not isinstance(section, Mapping):
        raise ConfigError(f"{where} is not an object")
    options = {**defaults, **section}
    method = options.get("quant_method") or _unnamed_method(options)
    if method is not None and not isinstance(method, str):
        raise ConfigError(f"`quant_method` in {where} is {method!r:.60}, wanted a name")
    return Quantization(method.lower() if method else None, MappingProxyType(options), dtype, where)


def _unnamed_method(options: Mapping[str, Any]) -> str | None:
    """Name the method of a section without one: before transformers 4.32 only bitsandbytes wrote sections."""
    if any(key.startswith(_BITSANDBYTES_KEYS) for key in options):
        return "bitsandbytes"
    return next((method for key, method in _TELLING_KEYS if key in options), "mlx" if is_mlx(options) else None)


def is_mlx(section: object) -> bool:
    """Tell whether a section is mlx_lm's: bits and a group size, and no method."""
    return isinstance(section, Mapping) and {"bits", "group_size"} <= section.keys()


def _dtype(config: Mapping[str, Any]) -> StoredType | None:
    name = config.get("dtype") or config.get("torch_dtype")
    return TORCH_FLOATS.get(name.removeprefix("torch.")) if isinstance(name, str) else None
