"""llama.cpp's definitions on the command line: whose definition, which commit, what is left out, what to do."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from front_end_checkpoints import write_front_end_checkpoint

from convert.cli import llama_cpp_commands
from convert.errors import NoSourceError
from convert.llama_cpp.pin import COMMIT

if TYPE_CHECKING:
    from pathlib import Path


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "convert", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)


@pytest.fixture(scope="module")
def vision(tmp_path_factory: pytest.TempPathFactory, reference_source: Path) -> Path:
    """Return a checkpoint with a vision tower; the pinned tree is in the user's cache."""
    assert reference_source.is_dir()
    return write_front_end_checkpoint("Qwen2VLForConditionalGeneration", tmp_path_factory.mktemp("vision"))


def test_the_plan_says_whose_definition_at_which_commit_and_what_is_left_out(vision: Path, tmp_path: Path) -> None:
    result = run("all", vision, tmp_path / "out", "--types", "f16,q4_0", "--dry-run")
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[1].split() == ["model", "Qwen2VLForConditionalGeneration", "(definition:", "llama.cpp", f"{COMMIT})"]
    (left_out,) = (line for line in lines if line.startswith("left out"))
    assert "vision: 43 tensors" in left_out
    assert "`--mmproj f16` writes them to a file of their own" in left_out


def test_one_command_writes_the_text_model_and_what_is_not_text(vision: Path, tmp_path: Path) -> None:
    result = run("all", vision, tmp_path / "out", "--types", "f16,q8_0", "--name", "m", "--mmproj", "q8_0")
    assert result.returncode == 0, result.stderr
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "m-F16.gguf",
        "m-Q8_0.gguf",
        "mmproj-m-Q8_0.gguf",
    ]
    assert "left out" not in result.stderr


def test_a_type_that_such_a_file_cannot_have_is_refused_before_any_work(vision: Path, tmp_path: Path) -> None:
    result = run("all", vision, tmp_path / "out", "--mmproj", "q4_0")
    assert result.returncode == 2
    assert "such a file cannot be Q4_0: f16, f32, bf16, q8_0 are possible" in result.stderr
    assert not (tmp_path / "out").exists()


def test_the_json_plan_has_it_too(vision: Path, tmp_path: Path) -> None:
    split = ("--split-max-tensors", "1000")  # which the other file is not asked to be
    result = run("all", vision, tmp_path / "out", "--types", "f16", "--mmproj", "f16", *split, "--dry-run", "--json")
    document = json.loads(result.stdout)
    assert document["definition"] == f"llama.cpp {COMMIT}"
    assert document["left_out"] == []
    assert [output["parts"] for output in document["outputs"]] == [1, None]


def test_without_a_source_tree_the_command_to_fetch_it_is_named(vision: Path, tmp_path: Path) -> None:
    result = run("gguf", vision, tmp_path / "out.gguf", "--dir", tmp_path / "nowhere")
    assert result.returncode == 7
    assert f"the source of llama.cpp at the pinned commit {COMMIT[:10]} is not on this machine" in result.stderr
    assert "convert build-llamacpp --source-only` fetches it, compiling nothing" in result.stderr


def test_an_architecture_that_nobody_defines_is_refused_by_name(vision: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(vision, model)
    config = json.loads((model / "config.json").read_text()) | {"architectures": ["NobodysForCausalLM"]}
    (model / "config.json").write_text(json.dumps(config))
    result = run("all", model, tmp_path / "out")
    assert result.returncode == 4
    assert "unsupported architecture `NobodysForCausalLM`" in result.stderr
    assert "convert inspect --architectures` lists what there is" in result.stderr


def test_native_alone_can_be_asked_for(vision: Path, tmp_path: Path) -> None:
    result = run("all", vision, tmp_path / "out", "--frontend", "native")
    assert result.returncode == 4
    assert "unsupported architecture `Qwen2VLForConditionalGeneration`" in result.stderr


def test_memory_that_is_not_allowed_is_refused_with_the_number(tmp_path: Path, reference_source: Path) -> None:
    assert reference_source.is_dir()
    bloom = write_front_end_checkpoint("BloomForCausalLM", tmp_path)
    result = run("all", bloom, tmp_path / "out", "--frontend", "llama.cpp", "--max-memory", "1KB")
    assert result.returncode == 5
    assert "1000 are allowed" in result.stderr
    assert "allow more with --max-memory" in result.stderr


def test_the_source_alone_can_be_fetched(reference_source: Path) -> None:
    home = reference_source.parents[2]
    result = run("build-llamacpp", "--source-only", "--dir", home, "--json")
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["commit"] == COMMIT
    assert json.loads(result.stdout)["tree"] == str(reference_source)


def test_on_a_terminal_one_question_offers_to_fetch_the_source(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    fetched: list[tuple[object, ...]] = []
    planned = iter((NoSourceError("`X`: the source is not here", ref="b9999"), "the plan"))

    def plan() -> Any:  # noqa: ANN401 - the second time it is one
        answer = next(planned)
        if isinstance(answer, NoSourceError):
            raise answer
        return answer

    monkeypatch.setattr(sys, "stdin", SimpleNamespace(isatty=lambda: True))
    monkeypatch.setattr(sys, "stderr", SimpleNamespace(isatty=lambda: True))
    monkeypatch.setattr("click.confirm", lambda question, **_: asked.append(question))
    monkeypatch.setattr(llama_cpp_commands, "_fetch", lambda *arguments: fetched.append(arguments))
    answer: object = llama_cpp_commands.with_source(plan, None)
    assert answer == "the plan"
    assert asked == ["`X`: the source is not here. Fetch it now, compiling nothing?"]
    assert fetched == [("auto", "b9999", None)]
