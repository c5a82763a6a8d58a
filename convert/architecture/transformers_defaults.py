"""What transformers fills into a `config.json`, and the types it takes there, by `model_type`.

The values are in transformers_defaults.json, which tests/generate_transformers_defaults.py writes from the transformers
that is installed; a test generates it again. Only keys whose type is checked are listed: the classes' own, not those of
all classes.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_TABLES: Final[Mapping[str, Any]] = json.loads(Path(__file__).with_suffix(".json").read_text(encoding="utf-8"))

# key → (default, accepted types); exactly these: True is no int, 1 is no float. A type in quotes is that text.
FIELDS: Final[Mapping[str, Mapping[str, tuple[Any, str]]]] = _TABLES["FIELDS"]
# key → the key it is kept under (attribute_map).
ALIASES: Final[Mapping[str, Mapping[str, str]]] = _TABLES["ALIASES"]
# key → the least and the greatest value taken.
INTERVALS: Final[Mapping[str, Mapping[str, tuple[float, float]]]] = _TABLES["INTERVALS"]
# key → the model_type that the object under it is read as.
SUB_CONFIGS: Final[Mapping[str, Mapping[str, tuple[str, Mapping[str, Any], bool]]]] = _TABLES["SUB_CONFIGS"]
# rope_theta where none is said, of those that have one.
DEFAULT_THETA: Final[Mapping[str, Any]] = _TABLES["DEFAULT_THETA"]
# Whose hidden_size must be a multiple of num_attention_heads.
HEADS_DIVIDE: Final[Sequence[str]] = _TABLES["HEADS_DIVIDE"]
# What `layer_types` and `mlp_layer_types` may hold; old names, and what they are read as.
LAYER_TYPES: Final[Sequence[str]] = _TABLES["LAYER_TYPES"]
MLP_LAYER_TYPES: Final[Sequence[str]] = _TABLES["MLP_LAYER_TYPES"]
RENAMED_LAYER_TYPES: Final[Mapping[str, str]] = _TABLES["RENAMED_LAYER_TYPES"]
# Dropped where the class does not declare them.
GENERATION_KEYS: Final[Sequence[str]] = _TABLES["GENERATION_KEYS"]
# Computed: a config that sets one is refused; of all classes, and a class's own.
READ_ONLY_KEYS: Final[Sequence[str]] = _TABLES["READ_ONLY_KEYS"]
OWN_READ_ONLY_KEYS: Final[Mapping[str, Sequence[str]]] = _TABLES["OWN_READ_ONLY_KEYS"]
# What `dtype` and `torch_dtype` may name.
DTYPES: Final[Sequence[str]] = _TABLES["DTYPES"]
# Fingerprints of the code that transformers_config.py, _classes.py and _rope.py say again: look there when one changes.
SOURCES: Final[Mapping[str, str]] = _TABLES["SOURCES"]
