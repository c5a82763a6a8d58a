"""What lies beside the weights and describes the model: what GGUF cannot hold is named, and a card stops nothing."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import pytest
from checkpoints import write_checkpoint
from gguf import GGUFWriter

from convert.authorship import write_authorship
from convert.errors import CheckpointError, UnsupportedError
from convert.model import ModelRequest, gguf_model, open_model

if TYPE_CHECKING:
    from pathlib import Path


def _described(directory: Path) -> tuple[dict[str, Any], tuple[str, ...]]:
    writer = GGUFWriter(None, "llama")
    notes = write_authorship(writer, directory)
    return {key: value.value for key, value in writer.kv_data[0].items()}, notes


def _with(tmp_path: Path, sampling: dict[str, Any] | None = None, *, card: str | None = None) -> Path:
    if card is not None:
        (tmp_path / "README.md").write_text(f"---\n{card}\n---\n\n# A model\n")
    (tmp_path / "generation_config.json").write_text(json.dumps(sampling or {}))
    return tmp_path


def test_a_whole_number_may_be_written_as_a_float(tmp_path: Path) -> None:
    values, _ = _described(_with(tmp_path, {"top_k": 50.0, "temperature": 1, "top_p": None}))
    assert (values["general.sampling.top_k"], values["general.sampling.temp"]) == (50, 1)


@pytest.mark.parametrize(
    ("key", "value", "wanted"),
    [
        ("top_k", 50.5, "a whole number of 32 bits"),
        ("top_k", "50", "a whole number of 32 bits"),
        ("top_k", 1 << 40, "a whole number of 32 bits"),
        ("top_k", True, "a whole number of 32 bits"),
        ("temperature", "warm", "a number"),
        ("repetition_penalty", [1.1], "a number"),
        ("top_p", 1e300, "a number"),
        ("mirostat", 2.5, "a whole number of 32 bits"),
    ],
)
def test_a_sampling_number_that_gguf_cannot_hold_is_named(key: str, value: object, wanted: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError) as caught:
        _described(_with(tmp_path, {key: value}))
    shown = f"`{value}`"
    assert caught.value.message == f"`{key}` in generation_config.json is {shown}, wanted {wanted}"


@pytest.mark.parametrize(
    ("card", "left_out"),
    [
        ("model_name: 3.1\nlicense: mit", "`model_name` `3.1`"),
        ("license: mit\nmodel_creator: [a, [b]]", "`model_creator`"),
        ("license: mit\ntags: [[a, b]]", "`tags`"),
        ("license: mit\nlicense_link: {a: b}", "`license_link`"),
    ],
)
def test_what_of_a_card_gguf_cannot_hold_is_left_out_with_a_note(card: str, left_out: str, tmp_path: Path) -> None:
    values, notes = _described(_with(tmp_path, card=card))
    assert values["general.license"] == "mit"
    (note,) = notes
    assert note.startswith(f"left out of the model card README.md, since GGUF cannot hold it: {left_out}")


@pytest.mark.parametrize("card", ["a: [", "a: &x 1\nb: *x", "x: " + "y" * 300_000])
def test_a_card_that_cannot_be_read_is_passed_over_with_a_note(card: str, tmp_path: Path) -> None:
    _, (note,) = _described(_with(tmp_path, card=card))
    assert note.startswith("the model card README.md cannot be read, and is passed over: ")


def test_a_card_that_is_no_text_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_bytes(b"---\nlicense: \xff\n---\n")
    _, (note,) = _described(tmp_path)
    assert "README.md cannot be read" in note


def test_a_directory_whose_name_is_not_utf_8_gives_a_name_and_a_note(tmp_path: Path) -> None:
    directory = tmp_path / os.fsdecode(b"my-l\xe4ma")
    write_checkpoint("llama-7b", tmp_path).rename(directory)
    model = gguf_model(ModelRequest(directory))
    assert model.values["general.name"] == "My L\ufffdMa"
    assert "the directory's name is not UTF-8: the model is called `my-l\ufffdma` in the file" in model.notes


# --- The architecture is looked up first ------------------------------------------------------------------------------

LLAVA: dict[str, Any] = {
    "architectures": ["LlavaForConditionalGeneration"],
    "model_type": "llava",
    "text_config": {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 320},
    "vision_config": {"hidden_size": 64, "model_type": "clip_vision_model"},
}


@pytest.mark.parametrize(
    ("config", "name", "hint"),
    [
        (LLAVA, "LlavaForConditionalGeneration", "its text model is a `LlamaForCausalLM`"),
        (LLAVA | {"text_config": {"hidden_size": 64}}, "LlavaForConditionalGeneration", "supported are"),
        (
            {"architectures": ["AyaVisionForConditionalGeneration"], "text_config": {"model_type": "mistral"}},
            "AyaVisionForConditionalGeneration",
            "supported are",
        ),
        (
            {"architectures": ["Emu3ForConditionalGeneration"], "text_config": None},
            "Emu3ForConditional",
            "supported",
        ),
        ({"architectures": ["XForCausalLM"], "hidden_size": "64"}, "XForCausalLM", "supported are"),
    ],
)
def test_an_unsupported_class_is_named_before_its_config_is_read(
    config: dict[str, Any], name: str, hint: str, tmp_path: Path
) -> None:
    directory = write_checkpoint("llama-7b", tmp_path)
    (directory / "config.json").write_text(json.dumps(config))
    with pytest.raises(UnsupportedError, match=f"unsupported architecture `{name}") as caught:
        open_model(ModelRequest(directory))
    assert (caught.value.hint or "").startswith(hint)
