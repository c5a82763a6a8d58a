"""Generates `convert/architecture/transformers_defaults.py` from the installed transformers.

    python tests/generate_transformers_defaults.py           writes it
    python tests/generate_transformers_defaults.py --check   exit code 1 if it is not what transformers says

The model types are those whose family is native; a new family adds one here.
"""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import MISSING
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

MODEL_TYPES: Final = ("bloom", "deepseek_v3", "gemma3_text", "llama", "mistral", "mixtral", "qwen3_moe")
TARGET: Final = Path(__file__).parents[1] / "convert" / "architecture" / "transformers_defaults.py"

# Nothing that a GGUF is made of depends on them; a wrong type of theirs makes transformers refuse all the same.
NO_DEFAULT: Final = frozenset(
    (
        "transformers_version", "architectures", "output_hidden_states", "return_dict", "dtype", "problem_type",
        "chunk_size_feed_forward", "is_encoder_decoder", "id2label", "label2id", "_name_or_path", "model_type",
        "output_attentions", "layer_types", "initializer_range", "use_cache", "hidden_act", "hidden_activation",
        "attention_dropout", "hidden_dropout", "output_router_logits", "router_aux_loss_coef", "router_jitter_noise",
        "pretraining_tp", "slow_but_exact", "mlp_only_layers", "_sliding_window_pattern", "qk_head_dim",
    )
)  # fmt: skip
KNOWN: Final = ("int", "float", "bool", "str", "dict", "None", "list[int]", "list[str]")
HEAD: Final = '''"""What transformers fills into a config.json, and which types it takes. Generated: do not edit.

Made by `python tests/generate_transformers_defaults.py`, transformers {version}.

DEFAULTS   model_type → key → value, where the config has no such key
TYPES      model_type → key → the types taken, beside COMMON_TYPES; exactly these: True is no int, 1 no float
ALIASES    model_type → another name of a key → the key
CHECKS_HEADS   the model types whose hidden size must be a multiple of the heads
"""

from __future__ import annotations

from typing import Any, Final

'''


def generated() -> str:
    """Return the file's text."""
    import transformers
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    classes = {name: CONFIG_MAPPING[name] for name in MODEL_TYPES}
    types = {name: _types(row) for name, row in classes.items()}
    common = set.intersection(*(set(row.items()) for row in types.values()))
    own = {
        name: {key: taken for key, taken in row.items() if (key, taken) not in common} for name, row in types.items()
    }
    tables: dict[str, object] = {
        "DEFAULTS: Final[dict[str, dict[str, Any]]]": {name: _defaults(row) for name, row in classes.items()},
        "COMMON_TYPES: Final[dict[str, tuple[str, ...]]]": dict(sorted(common)),
        "TYPES: Final[dict[str, dict[str, tuple[str, ...]]]]": own,
        "ALIASES: Final[dict[str, dict[str, str]]]": {name: dict(row.attribute_map) for name, row in classes.items()},
    }
    tables["CHECKS_HEADS: Final"] = tuple(name for name, row in classes.items() if "validate_architecture" in vars(row))
    text = HEAD.format(version=transformers.__version__)
    text += "\n".join(f"{name} = {value!r}" for name, value in tables.items()) + "\n"
    return _formatted(text)


def _defaults(config: type[PreTrainedConfig]) -> dict[str, Any]:
    """Give the fields' defaults, before the class derives one from another; and what it makes of no rope at all."""
    whole = config().to_dict()
    fields = {name: field.default for name, field in config.__dataclass_fields__.items() if name in whole}
    fields |= {name: whole[name] for name in ("rope_parameters", *config.attribute_map.values()) if name in whole}
    return {key: value for key, value in fields.items() if key not in NO_DEFAULT and value is not MISSING}


def _types(config: type[PreTrainedConfig]) -> dict[str, tuple[str, ...]]:
    annotated = {
        key: hint for base in reversed(config.__mro__) for key, hint in getattr(base, "__annotations__", {}).items()
    }
    spelled = {key: _spelled(hint) for key, hint in annotated.items() if "ClassVar" not in str(hint)}
    return {key: types for key, types in spelled.items() if types and key != "dtype"}


def _spelled(hint: object) -> tuple[str, ...]:
    """Spell an annotation as names of types; `list[int]` stays one, what is no plain type is left out."""
    text = hint.__name__ if isinstance(hint, type) and "[" not in str(hint) else str(hint)
    if text.startswith("Literal"):
        return ("str", "None")
    names = [re.sub(r"^dict\[.*\]$", "dict", name.strip()) for name in text.split("|")]
    known = [
        name for name in names if name in ("int", "float", "bool", "str", "dict", "None", "list[int]", "list[str]")
    ]
    return tuple(dict.fromkeys(known))


def _formatted(text: str) -> str:
    ruff = Path(sys.executable).with_name("ruff")
    command = [str(ruff), "format", "--stdin-filename", str(TARGET), "-"]
    return subprocess.run(command, input=text, capture_output=True, text=True, check=True).stdout


def main() -> int:
    """Write the file, or compare it."""
    text = generated()
    if "--check" in sys.argv[1:]:
        return int(TARGET.read_text(encoding="utf-8") != text)
    TARGET.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
