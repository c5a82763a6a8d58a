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
from typing import TYPE_CHECKING, Any, Final

from family_checkpoints import FAMILY_CHECKPOINTS
from family_checkpoints_gated import gated
from family_making import FamilyRow, save_family_checkpoint
from family_rows_beyond import with_exaones_names
from safetensors import safe_open

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

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
    FamilyRow("qwen3.5", "", "Qwen3_5ForCausalLM", gated()),
    FamilyRow("qwen3.5-moe", "", "Qwen3_5MoeForCausalLM", gated()),
    FamilyRow("mixtral", "", "MixtralForCausalLM", {**_SMALL, "num_local_experts": 2}),
)
# A class that is more than its text model goes back as that alone, one without a head as the class with one.
_NOT_ALONE: Final = re.compile(r".+ForConditionalGeneration|Qwen[23]Model")
# Layers that predict several tokens, which published checkpoints have and transformers leaves out.
_PREDICTING: Final = ("eh_proj", "embed_tokens", "enorm", "hnorm", "shared_head.head", "shared_head.norm")
_BEYOND: Final = {
    name: [f"model.layers.{{}}.{part}.weight" for part in _PREDICTING]
    for name in ("Glm4MoeForCausalLM", "Glm4MoeLiteForCausalLM")
}
# The same of those that have one attention layer for it, and what joins it.
_JOINED: Final = ("Qwen3NextForCausalLM", "Qwen3_5ForCausalLM", "Qwen3_5MoeForCausalLM")
# Classes that come with their checkpoints, as code: the model_type, whose names they have, and how they call them.
_ALIKE: Final[Mapping[str, tuple[str, str, Callable[[dict[str, Any]], dict[str, Any]]]]] = {
    "ExaoneForCausalLM": ("exaone", "LlamaForCausalLM", with_exaones_names),
    "MiniCPMForCausalLM": ("minicpm", "LlamaForCausalLM", dict),
}


def generate() -> str:
    """Give the whole text of the file: a line for each class."""
    found: dict[str, tuple[str, dict[str, None]]] = defaultdict(lambda: ("", {}))
    for row in (*_MORE, *FAMILY_CHECKPOINTS.values()):
        if row.refused_by_reference is None and not _NOT_ALONE.fullmatch(row.architecture):
            model_type, names = _saved(row)
            found[row.architecture] = model_type, found[row.architecture][1] | dict.fromkeys(names)
    for name, names in _BEYOND.items():
        found[name] = found[name][0], found[name][1] | dict.fromkeys(names)
    for name in _JOINED:
        found[name] = found[name][0], found[name][1] | dict.fromkeys(_with_joined(found[name][1]))
    for name, (model_type, of, named) in _ALIKE.items():
        found[name] = model_type, named(found[of][1])
    lines = (
        f"{json.dumps(name)}: {json.dumps([model_type, sorted(names, key=_in_order)])}"
        for name, (model_type, names) in sorted(found.items())
    )
    return "{\n" + ",\n".join(lines) + "\n}\n"


def _in_order(name: str) -> tuple[bool, str]:
    """Put a layer's own name before the one that it would have as the last of all layers."""
    return not name.startswith("mtp."), name


def _with_joined(names: Iterable[str]) -> Iterator[str]:
    for name in names:
        if name.startswith("model.layers.{}.") and "linear_attn" not in name:
            yield name.replace("model.layers.{}.", "mtp.layers.0.", 1)
    yield from (f"mtp.{part}.weight" for part in ("fc", "norm", "pre_fc_norm_embedding", "pre_fc_norm_hidden"))


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
