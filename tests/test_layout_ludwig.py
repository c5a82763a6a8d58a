"""Ludwig's fine-tuned directories: peft's adapters, where Ludwig puts them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from layout_files import hashes, refused
from peft_adapters import write_adapter, write_base

from convert.adapter import resolve_model
from convert.adapter.adapter_files import open_adapter
from convert.model import model_request

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def ludwig(tmp_path: Path) -> Path:
    """Write a base, and a directory of results whose adapter does not name it."""
    base = write_base(tmp_path / "base")
    weights = write_adapter(base, tmp_path / "run" / "model" / "model_weights", r=4, target_modules=["q_proj"])
    config = json.loads((weights / "adapter_config.json").read_text())
    (weights / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": None}))
    _say(tmp_path / "run", base_model=str(base), quantization={"bits": 4, "bnb_4bit_quant_type": "nf4"})
    return tmp_path / "run"


def _say(run: Path, **values: object) -> None:
    said = {"model_type": "llm", "adapter": {"type": "lora", "r": 4}, **values}
    (run / "model" / "model_hyperparameters.json").write_text(json.dumps(said))


@pytest.mark.parametrize("named", ["", "model", "model/model_weights"])
def test_a_directory_is_an_adapter_that_finds_its_base(named: str, ludwig: Path, tmp_path: Path) -> None:
    base, weights = tmp_path / "base", ludwig / "model" / "model_weights"
    resolved = resolve_model(ludwig / named)
    assert resolved.model == base
    wanted = hashes(model_request(base, merge=[weights]), tmp_path / "wanted", "f16")
    assert hashes(model_request(base, merge=[ludwig / named]), tmp_path / "merged", "f16") == wanted
    (found,) = hashes(ludwig / named, tmp_path / "found", "f16").values()
    assert [found] == list(wanted.values())


@pytest.mark.parametrize(
    ("quantization", "packed_to"),
    [
        ({"bits": 4}, "nf4-dq"),
        ({"bits": 4, "bnb_4bit_use_double_quant": False}, "nf4"),
        ({"bits": 4, "bnb_4bit_quant_type": "fp4"}, "fp4-dq"),
        ({"bits": 8}, "int8"),
        (None, None),
    ],
)
def test_what_the_base_was_packed_to_is_told(quantization: Any, packed_to: str | None, ludwig: Path) -> None:  # noqa: ANN401
    _say(ludwig, base_model="me/base", quantization=quantization)
    notes = [note for note in open_adapter(ludwig).notes if "Ludwig" in note]
    wanted = [f"Ludwig trained it on the base in {packed_to}: taken through that first, it meets the same"]
    assert notes == (wanted if packed_to else [])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"base_model": None}, "names no base model"),
        ({"base_model": 3}, "`base_model` in"),
        ({"base_model": "/nowhere"}, "is not on this machine"),
        ({"base_model": "me/base", "quantization": 4}, "`quantization` in"),
        ({"base_model": "me/base", "quantization": {"bits": "four"}}, "`bits` in"),
    ],
)
def test_what_is_wrong_is_told(values: dict[str, object], message: str, ludwig: Path, tmp_path: Path) -> None:
    _say(ludwig, **values)
    assert message in refused(ludwig, tmp_path / "out.gguf").message
