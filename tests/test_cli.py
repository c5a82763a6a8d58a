"""The command line: what it prints, where, and the code it ends with."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest
from peft_adapters import write_adapter

import convert
from convert.cli import cli
from convert.cli.hints import ALL_WORDS, options_in, words_of
from convert.errors import LIBRARY_WORDS, OutputError, Remedy
from convert.quant_mix import SETS

if TYPE_CHECKING:
    from collections.abc import Mapping

PROJECT: Final = Path(__file__).parent.parent


def run(*arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "convert", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd)


def test_help_lists_the_commands_on_stdout() -> None:
    result = run("--help")
    assert result.returncode == 0
    assert {"all", "gguf", "quantize", "inspect"} <= {
        line.split()[0] for line in result.stdout.splitlines() if line.strip()
    }


@pytest.mark.parametrize("command", [["--help"], ["all", "--help"], ["inspect", "--help"]])
def test_help_imports_nothing_heavy(command: list[str]) -> None:
    program = "\n".join(
        [
            "import sys, convert.cli",
            f"sys.argv = ['convert', *{command!r}]",
            "try: convert.cli.main()",
            "finally: print(*sys.modules, file=sys.stderr)",
        ]
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    loaded = {name.split(".")[0] for name in result.stderr.split()}
    assert "click" in loaded
    assert not loaded & {"torch", "transformers", "bitsandbytes", "numpy", "gguf", "rich"}


def test_a_safetensors_conversion_imports_neither_torch_nor_transformers(tiny_llama: Path, tmp_path: Path) -> None:
    program = f"import convert, sys; convert.convert_all({str(tiny_llama)!r}, {str(tmp_path)!r}); print(*sys.modules)"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    loaded = {name.split(".")[0] for name in result.stdout.split()}
    assert "convert" in loaded
    assert not loaded & {"torch", "transformers", "bitsandbytes"}


def test_all_reports_on_stderr_and_keeps_stdout_clean(tiny_llama: Path, tmp_path: Path) -> None:
    result = run("all", tiny_llama, tmp_path / "out")
    assert (result.returncode, result.stdout) == (0, "")
    assert "LlamaForCausalLM" in result.stderr
    assert re.search(r"6 files, .* in \d+\.\d s", result.stderr)
    assert result.stderr.count(f"{tmp_path}/out/\n") == 1
    for path in (tmp_path / "out").iterdir():
        assert f"  {path.name}  " in result.stderr
    assert result.stderr.splitlines()[-1].startswith("next: python -m convert run ")


def test_a_dry_run_is_the_truth_and_writes_nothing(tiny_llama: Path, tmp_path: Path) -> None:
    planned = run("all", tiny_llama, tmp_path / "out", "--dry-run", "--json")
    assert not (tmp_path / "out").exists()
    assert run("all", tiny_llama, tmp_path / "out").returncode == 0
    outputs = json.loads(planned.stdout)["outputs"]
    assert {output["path"]: output["nbytes"] for output in outputs} == {
        str(path): path.stat().st_size for path in (tmp_path / "out").iterdir()
    }
    for output in outputs:
        written = {tensor.name: tensor for tensor in convert.inspect(output["path"]).tensors}
        assert {tensor["name"]: (tensor["type"], tensor["nbytes"]) for tensor in output["tensors"]} == {
            name: (tensor.type, tensor.nbytes) for name, tensor in written.items()
        }


def test_a_dry_run_says_which_types_differ_and_why(tiny_llama: Path, tmp_path: Path) -> None:
    result = run("all", tiny_llama, tmp_path / "out", "--dry-run", "--types", "q4_0")
    assert result.returncode == 0
    assert re.search(r"token_embd\.weight +1x +Q6_K +tied embedding, also the output matrix", result.stdout)
    assert re.search(r"blk\.\*\.attn_norm\.weight +\d+x +F32 +one dimension", result.stdout)
    assert re.search(r"\d+ bytes in all", result.stdout)


def test_a_checkpoint_without_tokenizer_model_is_told_what_that_costs(tiny_llama: Path, tmp_path: Path) -> None:
    model = Path(shutil.copytree(tiny_llama, tmp_path / "model"))
    assert "no tokenizer.model" not in run("all", model, tmp_path / "out", "--dry-run").stdout
    (model / "tokenizer.model").unlink()
    assert "no tokenizer.model" in run("all", model, tmp_path / "out", "--dry-run").stdout


def test_gguf_writes_one_file(tiny_llama: Path, tmp_path: Path) -> None:
    assert run("gguf", tiny_llama, tmp_path / "one.gguf", "--type", "bf16").returncode == 0
    assert convert.inspect(tmp_path / "one.gguf").metadata["general.file_type"] == "32 (MOSTLY_BF16)"


def test_quantize_makes_of_our_f16_what_all_makes_at_once(tiny_llama: Path, tmp_path: Path) -> None:
    assert run("all", tiny_llama, tmp_path / "all").returncode == 0
    f16 = tmp_path / "all" / "tiny-llama-F16.gguf"
    assert run("quantize", f16, tmp_path / "again").returncode == 0
    again = sorted((tmp_path / "again").iterdir())
    assert [path.name for path in again] == [f"tiny-llama-Q{kind}.gguf" for kind in ("4_0", "4_1", "5_0", "5_1", "8_0")]
    for path in again:
        assert path.read_bytes() == (tmp_path / "all" / path.name).read_bytes()


def test_all_verifies_what_it_wrote(tiny_llama: Path, tmp_path: Path) -> None:
    result = run("all", tiny_llama, tmp_path / "out", "--types", "q4_0,q8_0", "--verify")
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("sound") == 2


@pytest.mark.usefixtures("reference")
def test_quantize_hands_other_types_to_llama_cpp(tiny_llama: Path, tmp_path: Path) -> None:
    assert run("gguf", tiny_llama, tmp_path / "tiny-F16.gguf").returncode == 0
    result = run("quantize", tmp_path / "tiny-F16.gguf", tmp_path, "--with", "llama.cpp", "--types", "q4_k_m")
    assert result.returncode == 0, result.stderr
    assert convert.inspect(tmp_path / "tiny-Q4_K_M.gguf").metadata["general.file_type"] == "15 (MOSTLY_Q4_K_M)"


def test_inspect_shows_a_checkpoint_with_the_size_of_every_type(tiny_llama: Path, tmp_path: Path) -> None:
    assert (
        run(
            "all", tiny_llama, tmp_path / "out", "--types", "f32,f16,bf16,q4_0,q4_1,q5_0,q5_1,q8_0", "--name", "model"
        ).returncode
        == 0
    )
    shown = json.loads(run("inspect", tiny_llama, "--json").stdout)
    assert shown["architecture"] == "LlamaForCausalLM"
    made = {path.stem.removeprefix("model-"): path.stat().st_size for path in (tmp_path / "out").iterdir()}
    assert made.items() <= shown["outputs"].items()
    assert set(shown["outputs"]) == {kind.name for kind in SETS["ALL"]}


def test_inspect_shows_a_gguf_files_metadata_and_tensors(tiny_llama: Path, tmp_path: Path) -> None:
    assert run("gguf", tiny_llama, tmp_path / "m.gguf").returncode == 0
    result = run("inspect", tmp_path / "m.gguf")
    assert result.returncode == 0
    assert "llama.embedding_length" in result.stdout
    assert "blk.0.attn_q.weight" in result.stdout


def test_inspect_tells_why_a_checkpoint_cannot_be_converted(tiny_llama: Path, tmp_path: Path) -> None:
    model = Path(shutil.copytree(tiny_llama, tmp_path / "model"))
    for name in ("tokenizer.model", "tokenizer.json"):
        (model / name).unlink()
    result = run("inspect", model)
    assert result.returncode == 0
    assert "cannot be converted" in result.stdout


def test_an_error_is_one_line_then_a_blank_line_then_a_hint(tmp_path: Path) -> None:
    result = run("all", tmp_path / "nowhere", tmp_path / "out")
    lines = result.stderr.splitlines()
    assert result.returncode == 3
    assert lines[0].startswith("error: ")
    assert lines[1] == ""
    assert lines[2].startswith("hint: ")
    assert len(lines) == 3


IN_THE_WAY: Final = {
    "all": ("model-F16.gguf", "choose another directory or --name; only a GGUF file is ever replaced"),
    "dequantize": ("model.safetensors", "choose another directory; only a safetensors file is ever replaced"),
}


@pytest.mark.parametrize("command", IN_THE_WAY)
def test_a_hint_names_the_options_of_the_command_that_was_given(command: str, tiny_llama: Path, tmp_path: Path) -> None:
    name, hint = IN_THE_WAY[command]
    model = Path(shutil.copytree(tiny_llama, tmp_path / "model"))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).write_text("no model at all")
    with pytest.raises(OutputError) as caught:
        cli.main([command, str(model), str(tmp_path / "out")], standalone_mode=False)
    assert caught.value.hint == hint


@pytest.mark.parametrize("words", [LIBRARY_WORDS, *ALL_WORDS])
def test_each_face_has_words_for_every_remedy(words: Mapping[Remedy, str]) -> None:
    assert set(words) == set(Remedy)


@pytest.mark.parametrize("name", cli.commands)
def test_hints_name_no_option_that_the_command_lacks(name: str) -> None:
    command = cli.commands[name]
    known = {option for parameter in command.params for option in parameter.opts}
    assert [words for words in words_of(command).values() if not options_in(words) <= known] == []


def test_a_command_without_the_option_is_told_what_helps_all_the_same() -> None:
    words = words_of(cli.commands["reproduce"])
    assert words[Remedy.MORE_ROOM] == "make room, or choose another directory"
    assert words_of(cli.commands["all"])[Remedy.MORE_ROOM].startswith("choose fewer types with --types")
    error = OutputError("it is full", remedies=(Remedy.FORCE, Remedy.MORE_ROOM))
    error.words = words
    assert error.hint == "make room, or choose another directory"


def test_what_a_library_user_is_told_names_no_option_of_the_command_line() -> None:
    assert not [words for words in LIBRARY_WORDS.values() if "--" in words]


def test_what_is_to_be_typed_next_works_where_a_path_begins_with_a_dash(tiny_llama: Path, tmp_path: Path) -> None:
    result = run("all", "--types", "q8_0", "--", tiny_llama, "-out", cwd=tmp_path)
    assert (result.returncode, "run ./-out/" in result.stderr) == (0, True)


def test_outputs_in_the_working_directory_are_not_said_to_be_in_the_root(tiny_llama: Path, tmp_path: Path) -> None:
    result = run("all", tiny_llama, ".", "--types", "q8_0,q4_0", cwd=tmp_path)
    assert "outputs  ./\n" in result.stderr


def _unsupported(model: Path) -> None:
    config = (model / "config.json").read_text()
    (model / "config.json").write_text(config.replace("LlamaForCausalLM", "NoSuchForCausalLM"))


def _no_config(model: Path) -> None:
    (model / "config.json").unlink()


def _contradiction(model: Path) -> None:
    config = (model / "config.json").read_text()
    (model / "config.json").write_text(re.sub(r'"intermediate_size": \d+', '"intermediate_size": 99', config))


@pytest.mark.parametrize(
    ("spoil", "code"),
    [(_unsupported, 4), (_no_config, 3), (_contradiction, 5)],
    ids=["architecture", "config", "shapes"],
)
def test_each_kind_of_error_has_its_exit_code(spoil: object, code: int, tiny_llama: Path, tmp_path: Path) -> None:
    assert callable(spoil)
    model = Path(shutil.copytree(tiny_llama, tmp_path / "model"))
    spoil(model)
    result = run("all", model, tmp_path / "out")
    assert result.returncode == code, result.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ["all"],
        ["all", "MODEL", "out", "--types", "q9_9"],
        ["all", "MODEL", "out", "--types", "f16", "--discard-f16"],
        ["all", "MODEL", "out", "--jobs", "0"],
        ["all", "MODEL", "out", "--json"],
        ["all", "MODEL", "out", "--pre-tokenizer", "no-such"],
        ["frobnicate"],
    ],
    ids=" ".join,
)
def test_wrong_usage_ends_with_2(arguments: list[str], tiny_llama: Path, tmp_path: Path) -> None:
    result = run(*(str(tiny_llama) if word == "MODEL" else word for word in arguments), cwd=tmp_path)
    assert result.returncode == 2, result.stderr
    assert result.stderr.startswith("error: ")
    assert not (tmp_path / "out").exists()


def test_a_reader_that_goes_away_is_no_error(tiny_llama: Path) -> None:
    line = f"{shlex.quote(sys.executable)} -m convert inspect {shlex.quote(str(tiny_llama))} | head -n 1"
    result = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=True)
    assert result.stderr == ""


def test_a_model_in_the_hubs_cache_gives_its_repositorys_name(tiny_llama: Path, tmp_path: Path) -> None:
    snapshot = tmp_path / "hub" / "models--me--my-llama" / "snapshots" / ("0" * 40)
    shutil.copytree(tiny_llama, snapshot)
    plan = convert.plan_all(snapshot, convert.OutputRequest(tmp_path / "out", types="f16"))
    assert [output.path.name for output in plan.outputs] == ["my-llama-F16.gguf"]


def _recipes() -> list[list[str]]:
    text = (PROJECT / "recipes" / "README.md").read_text()
    return [block.splitlines() for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL)]


@pytest.fixture(scope="module")
def adapter(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a LoRA adapter for the tiny model."""
    return write_adapter(tiny_llama, tmp_path_factory.mktemp("adapter"), r=4, target_modules="all-linear")


@pytest.mark.parametrize("lines", _recipes(), ids=lambda lines: lines[0])
def test_every_line_of_a_recipe_runs(lines: list[str], tiny_llama: Path, adapter: Path, tmp_path: Path) -> None:
    given = {"MODEL": str(tiny_llama), "ADAPTER": str(adapter), "ADAPTER:0.7": f"{adapter}:0.7"}
    for line in lines:
        program, *words = [given.get(word, word) for word in shlex.split(line)]
        assert program == "convert"
        result = run(*words, cwd=tmp_path)
        assert result.returncode == 0, f"{line}: {result.stderr}"


@pytest.mark.parametrize("option", ["--no-tensors", "--json"])
def test_a_full_standard_output_is_no_fault_of_the_checkpoint(option: str, tiny_llama: Path) -> None:
    command = [sys.executable, "-m", "convert", "inspect", str(tiny_llama), option]
    with Path("/dev/full").open("w") as full:
        result = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert result.returncode == 6
    assert result.stderr == "error: the standard output cannot be written: No space left on device\n"
