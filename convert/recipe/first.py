"""The recipe to start from: it runs as it is, and says in comments what it could do."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

from convert.recipe.asked import is_place, relative_to

if TYPE_CHECKING:
    from pathlib import Path

_TEXT: Final = """\
# What is made of which models: `convert recipe check FILE.toml` shows it, `convert recipe run FILE.toml` does it.
# Keys are the options of the commands, without dashes: `convert all --help`. Paths are as seen from this file.

models = [{model}]                      # paths, patterns ("runs/*/final"), hf://USER/MODEL@REVISION
outdir = "quantized/{{model}}"              # {{model}}: each model's name
types = ["f16", "q8_0", "q4_k_m"]         # or "standard", what publishers make

# merge = [{{ adapter = "my-adapter", weight = 0.7 }}]
# imatrix = "my.imatrix.gguf"             # or {{ text = "calibration.txt", chunks = 100 }}
# tensor-type = {{ attn_v = "q8_0" }}
# override-kv = {{ "general.name" = "My model" }}
# verify = true

# Several things, one after the other for each model, are jobs; what stands above holds for all of them.
# [[job]]
# command = "all"
# [[job]]
# command = "verify"
# files = "quantized/{{model}}/*.gguf"
# against = "{{path}}"
"""


def first_recipe(model: str, directory: Path) -> str:
    """Write a recipe for a model, to lie in a directory."""
    place = relative_to(directory)(model) if is_place(model) else model
    return _TEXT.format(model=json.dumps(place, ensure_ascii=False))
