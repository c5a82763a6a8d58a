"""Write `convert/architecture/transformers_defaults.json` from the transformers that is installed.

Run `python tests/generate_transformers_defaults.py` to write it; with `--check` it is only compared.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any, Final, Literal, get_args, get_origin

OUTPUT: Final = Path(__file__).parent.parent / "convert" / "architecture" / "transformers_defaults.json"

MODEL_TYPES: Final = (
    "llama",
    "mistral",
    "ministral",
    "mixtral",
    "qwen3_moe",
    "gemma3_text",
    "gemma3",
    "siglip_vision_model",
    "bloom",
    "deepseek_v3",
    "apertus",
    "arcee",
    "cohere",
    "cohere2",
    "deepseek_v2",
    "ernie4_5",
    "ernie4_5_moe",
    "exaone4",
    "falcon",
    "glm4",
    "glm4_moe",
    "glm4_moe_lite",
    "gpt2",
    "gpt_bigcode",
    "gpt_neox",
    "granite",
    "granitemoe",
    "granitemoeshared",
    "hunyuan_v1_dense",
    "lfm2",
    "lfm2_moe",
    "minimax_m2",
    "mpt",
    "nemotron",
    "olmo",
    "olmo2",
    "olmo3",
    "olmoe",
    "seed_oss",
    "smollm3",
    "stablelm",
    "starcoder2",
    "gemma",
    "gemma2",
    "phi",
    "phi3",
    "phimoe",
    "gpt_oss",
    "llama4_text",
    "ministral3",
    "qwen2",
    "qwen2_moe",
    "qwen3",
    "mistral3",
    "llama4",
    "qwen3_next",
    "qwen3_5",
    "qwen3_5_text",
    "qwen3_5_moe",
    "qwen3_5_moe_text",
    "gemma3n",
    "gemma3n_text",
)
# What a class may do otherwise than the others; a change in one of these wants a look at transformers_config.py.
_METHODS: Final = ("__post_init__", "convert_rope_params_to_dict", "to_dict", "validate_architecture", "validate_rope")


def generate() -> str:
    """Give the whole text of the file: a line for each model type in each table."""
    tables = ",\n\n".join(f'"{name}": {_lines(value)}' for name, value in _tables().items())
    return f"{{\n{tables}\n}}\n"


def _lines(value: object) -> str:
    if isinstance(value, dict):
        return "{\n" + ",\n".join(f"{json.dumps(key)}: {json.dumps(of)}" for key, of in value.items()) + "\n}"
    return json.dumps(value)


def _tables() -> dict[str, object]:
    import transformers
    from transformers import configuration_utils
    from transformers.generation.configuration_utils import GenerationConfig

    classes = _classes()
    read_only = _read_only(classes["llama"])
    return {
        "transformers": transformers.__version__,
        "FIELDS": {name: _fields(cls) for name, cls in classes.items()},
        "ALIASES": {name: cls.attribute_map for name, cls in classes.items() if cls.attribute_map},
        "INTERVALS": {name: found for name, cls in classes.items() if (found := _intervals(cls))},
        "SUB_CONFIGS": {name: _sub_configs(cls) for name, cls in classes.items() if cls.sub_configs_defaults},
        "DEFAULT_THETA": {
            name: cls.default_theta for name, cls in classes.items() if "rope_parameters" in _fields(cls)
        },
        "HEADS_DIVIDE": [name for name, cls in classes.items() if "validate_architecture" in vars(cls)],
        "LAYER_TYPES": configuration_utils.ALLOWED_ATTN_LAYER_TYPES,
        "MLP_LAYER_TYPES": configuration_utils.ALLOWED_MLP_LAYER_TYPES,
        "RENAMED_LAYER_TYPES": configuration_utils._LEGACY_LAYER_TYPE_REMAP,
        "GENERATION_KEYS": list(GenerationConfig._get_default_generation_params()),
        "READ_ONLY_KEYS": read_only,
        "OWN_READ_ONLY_KEYS": {
            name: own
            for name, cls in classes.items()
            if (own := [key for key in _read_only(cls) if key not in read_only])
        },
        "DTYPES": _dtypes(),
        "SOURCES": {name: _fingerprint(cls) for name, cls in classes.items()} | _shared_fingerprints(),
    }


def _classes() -> dict[str, Any]:
    from transformers import CONFIG_MAPPING
    from transformers.models.mpt.configuration_mpt import MptAttentionConfig

    return {name: CONFIG_MAPPING[name] for name in MODEL_TYPES} | {"mpt_attention": MptAttentionConfig}


def _fields(cls: Any) -> dict[str, tuple[object, str]]:  # noqa: ANN401 - a class of transformers
    # Those of the base class are annotated with strings, which are not checked.
    return {field.name: (field.default, _type(field.type)) for field in fields(cls) if not isinstance(field.type, str)}


def _type(annotation: object) -> str:
    if get_origin(annotation) is Literal:
        return " | ".join(repr(value) for value in get_args(annotation))
    text = annotation.__name__ if isinstance(annotation, type) and "[" not in str(annotation) else str(annotation)
    parts = [part.strip() for part in text.split(" | ")]
    # What JSON can hold: a class of transformers it cannot, nor the tuple that a list is not.
    plain = ["dict" if part.startswith("dict[") else part for part in parts]
    return " | ".join(part for part in plain if "." not in part and not part.startswith("tuple["))


def _intervals(cls: Any) -> dict[str, tuple[float, float]]:  # noqa: ANN401
    found = {}
    for field in fields(cls):
        for validator in field.metadata.get("validator", ()):
            bounds = inspect.getclosurevars(validator).nonlocals
            assert not bounds["exclude_min"]
            assert not bounds["exclude_max"]
            found[field.name] = (bounds["min"], bounds["max"])
    return found


def _sub_configs(cls: Any) -> dict[str, tuple[str, dict[str, object], bool]]:  # noqa: ANN401
    """Give of those that we know the model type, what stands for null, and whether the config may name another."""
    found = cls.sub_configs_defaults.items()
    return {
        key: (each.model_type, each.init_kwargs, each.config_class.__name__ == "AutoConfig")
        for key, each in found
        if each.model_type in MODEL_TYPES
    }


def _read_only(cls: Any) -> tuple[str, ...]:  # noqa: ANN401
    members = inspect.getmembers_static(cls) if hasattr(inspect, "getmembers_static") else vars(cls).items()
    return tuple(sorted(name for name, member in members if isinstance(member, property) and member.fset is None))


def _dtypes() -> tuple[str, ...]:
    import torch

    return tuple(sorted(name for name in dir(torch) if isinstance(getattr(torch, name), torch.dtype)))


def _fingerprint(cls: Any) -> str:  # noqa: ANN401
    return _digest("".join(inspect.getsource(vars(cls)[name]) for name in _METHODS if name in vars(cls)))


def _shared_fingerprints() -> dict[str, str]:
    from transformers import AutoConfig, PreTrainedConfig
    from transformers.modeling_rope_utils import RotaryEmbeddingConfigMixin

    shared = (
        PreTrainedConfig.__post_init__,
        PreTrainedConfig.to_dict,
        PreTrainedConfig.validate_layer_type,
        PreTrainedConfig.validate_architecture,
        PreTrainedConfig.validate_output_attentions,
        AutoConfig.from_pretrained,
        RotaryEmbeddingConfigMixin,
    )
    return {item.__qualname__: _digest(inspect.getsource(item)) for item in shared}


def _digest(source: str) -> str:
    return hashlib.sha256(source.encode()).hexdigest()[:12]


def main() -> int:
    """Write the module, or with `--check` say whether it is as it would be written."""
    text = generate()
    if "--check" in sys.argv[1:]:
        return int(OUTPUT.read_text() != text)
    OUTPUT.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
