"""The card: read back by huggingface_hub, true of the files beside it, and kind to what its author wrote."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Final

import pytest
from click.testing import CliRunner
from huggingface_hub import ModelCard

import convert
from convert.cli import cli
from convert.errors import CheckpointError, OutputError, UsageError
from convert.file_system import write_text
from convert.llama_cpp.pin import COMMIT
from convert.publish.card import CardFacts, card_text, read_earlier
from convert.publish.files import describe_directory
from convert.publish.source import read_source
from convert.quant_mix import FILE_TYPES

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SOURCE_COMMIT: Final = "0123456789abcdef0123456789abcdef01234567"
FRONT: Final = """---
license: other
license_name: llama-maybe
license_link: https://example.com/license
language: [en, de]
base_model: ancestor/of-the-model
tags: [story, gguf]
extra_gated_prompt: |
  You agree: to "all" of it.
extra_gated_fields:
  Name: text
model-index:
  - name: x
    results: []
library_name: transformers
---

# A model
"""
CHAT: Final = "{% for m in messages %}{{ '<|' + m.role + '|>' + m.content + '```\n' }}{% endfor %}"


@pytest.fixture(scope="module")
def snapshot(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the small model as the Hub's cache holds a gated one with a chat template."""
    folder = tmp_path_factory.mktemp("hub") / "models--org--Tiny-Llama" / "snapshots" / SOURCE_COMMIT
    shutil.copytree(tiny_llama, folder)
    (folder / "README.md").write_text(FRONT)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | {"chat_template": CHAT}))
    return folder


@pytest.fixture(scope="module")
def made(snapshot: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory with four types of it."""
    out = tmp_path_factory.mktemp("made") / "out"
    convert.convert_all(snapshot, convert.OutputRequest(out, types="f16,q8_0,q4_k_m,bf16"))
    return out


@pytest.fixture
def directory(made: Path, tmp_path: Path) -> Path:
    """Return a copy of it that a test may write to."""
    return shutil.copytree(made, tmp_path / "out")


def run(*arguments: object, **variables: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "convert", *map(str, arguments)]
    environment = {**os.environ, "COLUMNS": "100", **variables}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


def write_card(directory: Path, *arguments: object) -> str:
    done = CliRunner().invoke(cli, ["card", str(directory), *map(str, arguments)])
    assert done.exit_code == 0, done.output
    return (directory / "README.md").read_text()


def front_matter(text: str) -> dict[str, Any]:
    data: Any = ModelCard(text).data
    return dict(data.to_dict())


def test_the_source_s_yaml_is_kept_and_says_whose_quantization_it_is(directory: Path, snapshot: Path) -> None:
    text = write_card(directory, "--model", snapshot, "--repo", "me/Tiny-Llama-GGUF")
    assert front_matter(text) == {
        "license": "other",
        "license_name": "llama-maybe",
        "license_link": "https://example.com/license",
        "language": ["en", "de"],
        "base_model": "org/Tiny-Llama",
        "base_model_relation": "quantized",
        "quantized_by": "me",
        "tags": ["story", "gguf", "conversational"],
        "extra_gated_prompt": 'You agree: to "all" of it.\n',
        "extra_gated_fields": {"Name": "text"},
    }
    assert ModelCard(text).data.get("eval_results") is None


def rows(text: str) -> Iterator[list[str]]:
    for line in text.splitlines():
        if line.startswith("| ["):
            yield [cell.strip() for cell in line.strip("| ").split(" | ")]


def test_the_table_has_each_file_with_its_exact_size_the_largest_first(directory: Path) -> None:
    listed = list(rows(write_card(directory)))
    names = sorted(
        (path.name for path in directory.glob("*.gguf")), key=lambda name: -(directory / name).stat().st_size
    )
    assert [row[0] for row in listed] == [f"[{name}]({name})" for name in names]
    for row in listed:
        nbytes = (directory / row[0][1:].partition("]")[0]).stat().st_size
        assert f"({nbytes:,} bytes)" in row[2]
        n_parameters = convert.inspect(directory / row[0][1:].partition("]")[0]).n_parameters
        assert n_parameters is not None
        assert row[3] == f"{8 * nbytes / n_parameters:.2f}"


def test_it_says_what_it_was_made_from_how_to_run_it_and_what_it_sums_up_to(directory: Path, snapshot: Path) -> None:
    text = write_card(directory, "--model", snapshot, "--repo", "me/Tiny-Llama-GGUF")
    assert f"https://huggingface.co/org/Tiny-Llama/tree/{SOURCE_COMMIT}" in text
    assert "llama-cli -hf me/Tiny-Llama-GGUF:Q4_K_M" in text
    assert "ollama run hf.co/me/Tiny-Llama-GGUF:Q4_K_M" in text
    assert f"hf download org/Tiny-Llama --revision {SOURCE_COMMIT}" in text
    for path in directory.glob("*.gguf"):
        assert f"{sha256(path.read_bytes()).hexdigest()}  {path.name}" in text


def test_what_has_a_lock_is_made_again_from_it(tiny_llama: Path, snapshot: Path, tmp_path: Path) -> None:
    local = shutil.copytree(tiny_llama, tmp_path / "local name")
    for model, base, fetched, there in (
        (snapshot, (), f"org/Tiny-Llama --revision {SOURCE_COMMIT}", "Tiny-Llama"),
        (local, ("--base-model", "org/local"), "org/local", "'local name'"),
    ):
        out = tmp_path / "out"
        words = ("all", str(model), str(out), "--types", "q4_0", "--lock")
        assert CliRunner().invoke(cli, words).exit_code == 0
        assert (
            f"```sh\nhf download {fetched} --local-dir {there}\nconvert reproduce . --model {there}\n```"
            in write_card(out, "--model", model, *base)
        )
        shutil.rmtree(out)


def test_the_prompt_stands_in_a_fence_that_it_does_not_end(directory: Path) -> None:
    text = write_card(directory)
    shape = re.search(r"## Prompt format\n.*?\n(`{3,})\n(.*?)\n\1\n", text, re.DOTALL)
    assert shape is not None
    assert shape[2] == "<|system|>{system prompt}```\n<|user|>{prompt}```"


def test_without_a_repository_the_commands_name_files_and_a_note_says_what_is_missing(directory: Path) -> None:
    done = run("card", directory)
    text = (directory / "README.md").read_text()
    assert "llama-cli -m Tiny-Llama-Q4_K_M.gguf" in text
    assert "base_model" not in front_matter(text)
    assert front_matter(text)["language"] == ["en", "de"]  # as the files say
    assert "--base-model ORG/NAME" in done.stderr


def test_words_between_the_marks_survive_and_so_does_what_the_card_knew(directory: Path, snapshot: Path) -> None:
    first = write_card(directory, "--model", snapshot, "--repo", "me/Tiny-Llama-GGUF")
    own = "My own words, with `code`\n\n## and a heading"
    (directory / "README.md").write_text(first.replace("written again -->\n", f"written again -->\n{own}\n"))
    again = write_card(directory, "--repo", "me/Tiny-Llama-GGUF")
    assert own in again
    assert again.replace(f"{own}\n", "") == first


def test_a_card_of_someone_else_is_not_replaced_unless_forced(directory: Path) -> None:
    (directory / "README.md").write_text("# My model\n")
    refused = run("card", directory)
    assert refused.returncode == 6
    assert "was not written by this command" in refused.stderr
    assert "--force replaces" in refused.stderr
    assert (directory / "README.md").read_text() == "# My model\n"
    assert "## Files" in write_card(directory, "--force")


def test_measured_figures_of_a_report_are_shown(directory: Path) -> None:
    (directory / "report.md").write_text("| file | perplexity |\n| --- | --- |\n| a | 5.1 |\n")
    assert "## Measured\n\n| file | perplexity |\n" in write_card(directory)


def test_a_type_that_another_file_is_found_by_is_named_as_a_file(directory: Path) -> None:
    for name in ("Q4_K_M", "Q8_0"):
        (directory / f"Tiny-Llama-{name}.gguf").unlink()
    text = write_card(directory, "--repo", "me/x-GGUF")
    assert "llama-cli -hf me/x-GGUF:BF16" in text  # the first of them, which is also what `:F16` finds


def test_sums_are_taken_from_a_file_that_is_newer_and_computed_otherwise(directory: Path) -> None:
    sums = "".join(f"{'0' * 64}  {path.name}\n" for path in directory.glob("*.gguf"))
    (directory / "SHA256SUMS").write_text(sums)
    assert write_card(directory).count("0" * 64) == 4
    os.utime(directory / "SHA256SUMS", (0, 0))
    assert "0" * 64 not in write_card(directory)


def test_every_type_says_what_it_is_good_for() -> None:
    from convert.publish.purposes import PURPOSES, purpose

    assert set(PURPOSES) == {row.name for row in FILE_TYPES.values() if not row.copies}
    assert purpose("UD-Q4_K_XL") == "its publisher's own mix, near to Q4_K_M"
    assert purpose("nothing") == ""


def test_a_directory_without_a_model_or_of_broken_parts_is_an_error(directory: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert run("card", tmp_path / "empty").returncode == 2
    (directory / "Tiny-Llama-Q8_0.gguf").rename(directory / "T-Q8_0-00001-of-00002.gguf")
    done = run("card", directory)
    assert done.returncode == 3
    assert "of the 2 parts of `T-Q8_0` there are 1" in done.stderr


def test_a_card_claims_the_reference_s_bytes_only_of_files_made_here(directory: Path) -> None:
    assert COMMIT not in write_card(directory)


@pytest.mark.parametrize(
    ("front", "said"),
    [
        ("---\nlicense: [mit\n---\n", "cannot be read"),
        ("---\n- mit\n---\n", "is no mapping of keys to values"),
        ("---\na: &a [x]\nb: *a\n---\n", "YAML aliases"),
    ],
)
def test_a_source_whose_license_cannot_be_read_is_an_error(
    directory: Path, tmp_path: Path, front: str, said: str
) -> None:
    (tmp_path / "README.md").write_text(front)
    done = run("card", directory, "--model", tmp_path)
    assert done.returncode == 3
    assert said in done.stderr
    assert not (directory / "README.md").exists()


def test_names_from_a_file_cannot_write_the_card(directory: Path) -> None:
    described = describe_directory(directory)
    model = described.models[0]
    values = {**model.values, "general.name": "x\n\n# A heading\n" * 50, "quantize.imatrix.file": "/a/b`\n# c"}
    named = replace(model, names=("a|b'; rm -Q8_0.gguf",), values=values)
    text = card_text(CardFacts(replace(described, files=(named,))))
    headings = [line for line in text.splitlines() if line.startswith("# ")]
    assert len(headings) == 1
    assert len(headings[0]) < 120
    assert "`b' # c`" in text
    assert "llama-cli -m 'a|b'\"'\"'; rm -Q8_0.gguf'" in text
    assert next(rows(text))[0].startswith("[a&#124;b'; rm")


def test_where_a_checkpoint_comes_from_is_read_off_its_path_or_what_a_download_left(tmp_path: Path) -> None:
    cached = tmp_path / "models--org--A" / "snapshots" / SOURCE_COMMIT
    elsewhere = tmp_path / "models--org--A" / SOURCE_COMMIT / "A"
    local = tmp_path / "A"
    told = local / ".cache" / "huggingface" / "download" / "config.json.metadata"
    for folder in (cached, elsewhere, told.parent):
        folder.mkdir(parents=True)
    told.write_text(f"{SOURCE_COMMIT}\netag\n1.5\n")
    for folder in (cached, elsewhere):
        assert (read_source(folder).repository, read_source(folder).commit) == ("org/A", SOURCE_COMMIT)
    assert (read_source(local).repository, read_source(local).commit) == (None, SOURCE_COMMIT)
    assert read_source(local, "org/B").repository == "org/B"
    assert read_source(tmp_path).commit is None


def test_what_cannot_be_written_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "README.md").mkdir()
    with pytest.raises(OutputError, match="cannot be written: Is a directory"):
        write_text(tmp_path / "README.md", "a card")
    assert [path.name for path in tmp_path.iterdir()] == ["README.md"]
    with pytest.raises(OutputError, match="cannot be read: Is a directory"):
        read_earlier(tmp_path / "README.md")


@pytest.mark.parametrize("wrong", [("--model", "nowhere"), ("--repo", "a b"), ("--base-model", "a/b/c")])
def test_a_model_that_is_not_there_or_a_name_that_is_none_writes_no_card(
    tiny_llama: Path, tmp_path: Path, wrong: tuple[str, str]
) -> None:
    convert.convert_all(tiny_llama, convert.OutputRequest(tmp_path, types="q8_0"))
    result = CliRunner().invoke(cli, ["card", str(tmp_path), *wrong])
    assert isinstance(result.exception, (CheckpointError, UsageError))
    assert not (tmp_path / "README.md").exists()


def test_a_report_that_cannot_be_written_is_told_before_anything_is_measured(tmp_path: Path) -> None:
    result = CliRunner().invoke(cli, ["report", "nowhere.gguf", "--markdown", str(tmp_path)])
    assert isinstance(result.exception, OutputError)
