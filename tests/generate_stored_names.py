"""Write `convert/architecture/stored_names.json`: the names under which transformers' classes save their tensors.

Run `python tests/generate_stored_names.py`. Each class is saved as every row of `family_checkpoints.py` has it, and as
those below; numbers in names become `{}`. What a name is missing here is shown by `tests/test_way_back.py`, where
transformers loads what was written under them.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from family_checkpoints import FAMILY_CHECKPOINTS
from family_making import FamilyRow, save_family_checkpoint
from safetensors import safe_open

OUTPUT: Final = Path(__file__).parent.parent / "convert" / "architecture" / "stored_names.json"
_NUMBER: Final = re.compile(r"(?<=\.)\d+(?=\.)")
_SMALL: Final[dict[str, Any]] = {
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_attention_heads": 4,
    "num_hidden_layers": 1,
    "num_key_value_heads": 2,
    "vocab_size": 64,
}
_MORE: Final = (
    FamilyRow("llama", "", "LlamaForCausalLM", {**_SMALL, "attention_bias": True, "mlp_bias": True}),
    FamilyRow("mistral", "", "MistralForCausalLM", _SMALL),
    FamilyRow("mixtral", "", "MixtralForCausalLM", {**_SMALL, "num_local_experts": 2}),
)
# Layers that predict several tokens, which published checkpoints have and transformers leaves out.
_PREDICTING: Final = ("eh_proj", "embed_tokens", "enorm", "hnorm", "shared_head.head", "shared_head.norm")
_BEYOND: Final = {
    name: [f"model.layers.{{}}.{part}.weight" for part in _PREDICTING]
    for name in ("Glm4MoeForCausalLM", "Glm4MoeLiteForCausalLM")
}
# Classes that come with their checkpoints, as code: the model_type, and whose names they have.
_ALIKE: Final = {"MiniCPMForCausalLM": ("minicpm", "LlamaForCausalLM")}


def generate() -> str:
    """Give the whole text of the file: a line for each class."""
    found: dict[str, tuple[str, dict[str, None]]] = defaultdict(lambda: ("", {}))
    for row in (*_MORE, *FAMILY_CHECKPOINTS.values()):
        if row.refused_by_reference is None:
            model_type, names = _saved(row)
            found[row.architecture] = model_type, found[row.architecture][1] | dict.fromkeys(names)
    for name, names in _BEYOND.items():
        found[name] = found[name][0], found[name][1] | dict.fromkeys(names)
    for name, (model_type, of) in _ALIKE.items():
        found[name] = model_type, found[of][1]
    lines = (
        f"{json.dumps(name)}: {json.dumps([model_type, sorted(names)])}"
        for name, (model_type, names) in sorted(found.items())
    )
    return "{\n" + ",\n".join(lines) + "\n}\n"


def _saved(row: FamilyRow) -> tuple[str, list[str]]:
    plain = replace(row, saved_config={}, change_weights=None, state_dict=False, tokenizer=lambda _: None)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model"
        save_family_checkpoint(plain, path)
        model_type = json.loads((path / "config.json").read_text(encoding="utf-8"))["model_type"]
        with safe_open(path / "model.safetensors", "np") as file:
            return model_type, [_NUMBER.sub("{}", name) for name in file.keys()]  # noqa: SIM118 - no mapping


if __name__ == "__main__":
    OUTPUT.write_text(generate(), encoding="utf-8")
