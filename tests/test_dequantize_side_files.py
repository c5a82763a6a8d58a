"""`convert dequantize`: the small files, the card and the config that lie beside the weights."""

from __future__ import annotations

import json
import os
import re
import shutil
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest
from dequantize_checkpoints import CARD, hashes
from packed_checkpoints import tiny_config, write_safetensors_checkpoint

import convert
from convert.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture
def packed(packed_llama: Path, tmp_path: Path) -> Path:
    """Return a copy of the packed Llama that a test may change."""
    return Path(shutil.copytree(packed_llama, tmp_path / "llama-nf4"))


def test_the_small_files_come_along(packed: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    convert.dequantize(packed, tmp_path / "out")
    copied = ["LICENSE.txt", "additional_chat_templates/tool_use.jinja", "chat_template.jinja"]
    copied += ["generation_config.json", "tokenizer.json", "tokenizer.model", "tokenizer_config.json"]
    written = {"README.md", "config.json", "model.safetensors"}
    assert set(hashes(tmp_path / "out")) == written | set(copied)
    assert {name: hashes(tmp_path / "out")[name] for name in copied} == {name: hashes(packed)[name] for name in copied}
    ids = AutoTokenizer.from_pretrained(tmp_path / "out")("Once upon a time").input_ids
    assert ids == AutoTokenizer.from_pretrained(packed)("Once upon a time").input_ids
    for folder in ("original", ".cache", "__pycache__"):
        (packed / folder).mkdir()
    assert "not copied: `sample.png`, `original/`" in convert.plan_dequantize(packed, tmp_path / "other").notes


def test_the_card_keeps_front_matter_and_text_and_says_what_was_made_of_what(packed: Path, tmp_path: Path) -> None:
    convert.dequantize(packed, tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    matter, text = CARD.split("---\n\n")
    assert card.startswith(f"{matter}---\n\n## How these weights were made\n")
    assert card.endswith(text)
    assert re.search(r"Dequantized from `llama-nf4`: 14 of 21 tensors were packed by bitsandbytes", card)
    assert "All floating-point tensors are float16." in card


def test_a_model_from_the_hubs_cache_is_called_by_its_name(packed: Path, tmp_path: Path) -> None:
    """Its directory is called after a commit, and its files are links."""
    repository = tmp_path / "hub" / "models--org--llama-nf4"
    snapshot = repository / "snapshots" / ("0" * 40)
    shutil.copytree(packed, snapshot)
    (repository / "blobs").mkdir()
    for path in [path for path in snapshot.rglob("*") if path.is_file()]:
        blob = repository / "blobs" / sha256(path.read_bytes()).hexdigest()
        path.rename(blob)
        path.symlink_to(os.path.relpath(blob, path.parent))
    convert.dequantize(snapshot, tmp_path / "out")
    convert.dequantize(packed, tmp_path / "plain" / "out")
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "Dequantized from `org/llama-nf4`: " in card
    ours, plain = hashes(tmp_path / "out"), hashes(tmp_path / "plain" / "out")
    assert {**ours, "README.md": ""} == {**plain, "README.md": ""}


_NEW_CARD: Final = "---\nlibrary_name: transformers\n---\n\n# out\n\n## How"


@pytest.mark.parametrize(
    ("original", "starts", "ends"),
    [
        (None, _NEW_CARD, "float16.\n"),
        ("", _NEW_CARD, "float16.\n"),
        ("# A title\n", "\n## How these weights were made\n\nThe weights are those of `model`; all", "\n\n# A title\n"),
        ("---\nlicense: mit\n---", "---\nlicense: mit\n---\n\n## How", "float16.\n\n"),
        ("---\nnever closed\n", "\n## How", "\n\n---\nnever closed\n"),
        ("\ufeff---\r\na: 1\r\n---\r\ntext", "\ufeff---\r\na: 1\r\n---\r\n\n## How", "\n\ntext"),
    ],
)
def test_a_card_of_any_kind_is_kept(
    original: str | None, starts: str, ends: str, tiny_llama: Path, tmp_path: Path
) -> None:
    model = Path(shutil.copytree(tiny_llama, tmp_path / "model"))
    if original is not None:
        (model / "README.md").write_bytes(original.encode())
    convert.dequantize(model, tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_bytes().decode()
    assert card.startswith(starts)
    assert card.endswith(ends)


CONFIGS: Final[dict[str, tuple[dict[str, Any], dict[str, Any]]]] = {
    "new spelling": ({"dtype": "float32"}, {"dtype": "bfloat16"}),
    "old spelling": ({"dtype": ..., "torch_dtype": "float16"}, {"torch_dtype": "bfloat16"}),
    "both": ({"dtype": "float32", "torch_dtype": "float32"}, {"dtype": "bfloat16", "torch_dtype": "bfloat16"}),
    "neither": ({"dtype": ...}, {"torch_dtype": "bfloat16"}),
    "in a part": (
        {"text_config": {"torch_dtype": "float16", "quantization_config": {}, "x": [1]}, "dtype": "float16"},
        {"text_config": {"torch_dtype": "bfloat16", "x": [1]}, "dtype": "bfloat16"},
    ),
    "traces": ({"compression_config": None, "_pre_quantization_dtype": "float16"}, {"dtype": "bfloat16"}),
}


@pytest.mark.parametrize("case", CONFIGS)
def test_the_config_is_that_of_a_plain_model(case: str, tmp_path: Path) -> None:
    import torch

    changes, expected = CONFIGS[case]
    config = tiny_config(**changes)
    config = {key: value for key, value in config.items() if value is not ...}
    write_safetensors_checkpoint(tmp_path / "model", config, {"a": torch.ones(4)})
    convert.dequantize(tmp_path / "model", convert.DequantizeRequest(tmp_path / "out", dtype="bf16"))
    written = json.loads((tmp_path / "out" / "config.json").read_text())
    gone = {"quantization_config", "compression_config", "_pre_quantization_dtype", "dtype", "torch_dtype"}
    assert written == {key: value for key, value in config.items() if key not in gone} | expected


def _link_out(packed: Path) -> None:
    secret = packed.parent / "secret.txt"
    secret.write_text("not yours")
    (packed / "notes.txt").symlink_to(secret)


def _pointer(packed: Path) -> None:
    (packed / "tokenizer.json").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")


def _huge(packed: Path) -> None:
    with (packed / "vocab.txt").open("wb") as file:
        file.truncate(200 << 20)


def _huge_card(packed: Path) -> None:
    with (packed / "README.md").open("wb") as file:
        file.truncate(17 << 20)


HOSTILE: Final[dict[str, tuple[Callable[[Path], None], str]]] = {
    "a link out of the checkpoint": (_link_out, r"notes\.txt` is a link out of the checkpoint"),
    "a git-lfs pointer": (_pointer, r"tokenizer\.json` is a git-lfs pointer"),
    "too large a file": (_huge, r"vocab\.txt` and the other files to copy have over 134217728 bytes"),
    "too large a card": (_huge_card, r"README\.md` .*over"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_side_files_are_errors_before_any_output(case: str, packed: Path, tmp_path: Path) -> None:
    change, message = HOSTILE[case]
    change(packed)
    with pytest.raises(CheckpointError, match=message):
        convert.dequantize(packed, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_checkpoint_without_a_config_is_an_error(tmp_path: Path) -> None:
    import torch

    write_safetensors_checkpoint(tmp_path / "model", tiny_config(), {"a": torch.ones(4)})
    (tmp_path / "model" / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"config\.json` is missing"):
        convert.dequantize(tmp_path / "model", tmp_path / "out")
