"""Recipes: what they can say is what the commands can, and what is wrong with them is told before anything starts."""

from __future__ import annotations

import dataclasses
import shutil
from importlib import import_module
from typing import TYPE_CHECKING, Final

import click
import pytest
from click.testing import CliRunner

from convert import conversion, stream
from convert.cli import cli
from convert.cli.asked_options import NO_JOBS, NO_KEYS, key_of, schema_of
from convert.errors import ConvertError, RecipeError
from convert.plan import Output, Plan
from convert.recipe.lines import line_numbers
from convert.recipe.read import read_recipe
from convert.recipe.spelling import in_words

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from click.testing import Result

# For each option of the commands that write GGUF files: what a recipe says, and the command line that says the same.
SAID: Final = {
    "types": ('["f16", "q8_0"]', ["--types", "f16,q8_0"]),
    "discard-f16": ("true", ["--discard-f16"]),
    "name": ('"mine"', ["--name", "mine"]),
    "mmproj": ('"f16"', ["--mmproj", "f16"]),
    "mtp": ('"q8_0"', ["--mtp", "q8_0"]),
    "verify": ("true", ["--verify"]),
    "dir": ('"llama.cpp"', ["--dir", "llama.cpp"]),
    "merge": ('[{ adapter = "adapter", weight = 0.5 }, "adapter"]', ["--merge", "adapter:0.5", "--merge", "adapter"]),
    "config": ('"rules.txt"', ["--config", "rules.txt"]),
    "tokenizer": ('"llama"', ["--tokenizer", "llama"]),
    "eps": ("1e-5", ["--eps", "1e-5"]),
    "pre-tokenizer": ('"llama-bpe"', ["--pre-tokenizer", "llama-bpe"]),
    "frontend": ('"native"', ["--frontend", "native"]),
    "ref": ('"b9000"', ["--ref", "b9000"]),
    "max-memory": ('"8GB"', ["--max-memory", "8GB"]),
    "trust-remote-code": ("true", ["--trust-remote-code"]),
    "imatrix": ('"m.gguf"', ["--imatrix", "m.gguf", "--imatrix-name", "m.gguf"]),
    "include-weights": ('["attn"]', ["--include-weights", "attn"]),
    "exclude-weights": ('["attn"]', ["--exclude-weights", "attn"]),
    "pure": ("true", ["--pure"]),
    "leave-output-tensor": ("true", ["--leave-output-tensor"]),
    "output-tensor-type": ('"q8_0"', ["--output-tensor-type", "q8_0"]),
    "token-embedding-type": ('"q8_0"', ["--token-embedding-type", "q8_0"]),
    "tensor-type": ('{ "attn_v" = "q8_0" }', ["--tensor-type", "attn_v=q8_0"]),
    "tensor-type-file": ('"rules.txt"', ["--tensor-type-file", "rules.txt"]),
    "prune-layers": ("[1]", ["--prune-layers", "1"]),
    "override-kv": (
        '{ "a.b" = 1, "a.c" = true, "a.d" = "x", "a.e" = 0.5 }',
        [
            word
            for pair in ("a.b=int:1", "a.c=bool:true", "a.d=str:x", "a.e=float:0.5")
            for word in ("--override-kv", pair)
        ],
    ),
    "allow-requantize": ("true", ["--allow-requantize"]),
    "type": ('"q5_1"', ["--type", "q5_1"]),
    "force": ("true", ["--force"]),
    "jobs": ("3", ["--jobs", "3"]),
    "allow-nonfinite": ("true", ["--allow-nonfinite"]),
    "lock": ("true", ["--lock"]),
    "split-max-size": ('"1M"', ["--split-max-size", "1M"]),
    "split-max-tensors": ("4", ["--split-max-tensors", "4"]),
    "keep-split": ("true", ["--keep-split"]),
    "with": ('"convert"', ["--with", "convert"]),
}
WRITERS: Final = {"all": "outdir", "gguf": "out", "quantize": "outdir"}
MODELS: Final = {"all": "llama", "gguf": "llama", "quantize": "own.gguf"}
# Said together with others, or shown by another test.
ELSEWHERE: Final = {"model", "source", "outdir", "out", "text", "chunks", "imatrix-name"}
NEEDS_IMATRIX: Final = ("include-weights", "exclude-weights")


# What has `stream.carry_out` under a name of its own.
BOUND: Final = ("convert.dequantization", "convert.publish.making", "convert.recipe.lock")


class StopError(ConvertError):
    """What was asked has been heard."""


def run(*words: object) -> Result:
    result = CliRunner().invoke(cli, list(map(str, words)))
    if result.exception is not None and not isinstance(result.exception, (ConvertError, SystemExit)):
        raise result.exception
    return result


def test_every_option_of_a_command_is_a_key_and_every_command_a_job_unless_it_makes_nothing() -> None:
    schema = schema_of(cli)
    assert set(schema) | NO_JOBS == set(cli.commands)
    assert not set(schema) & NO_JOBS
    for name, keys in schema.items():
        options = {key_of(option) for option in cli.commands[name].params if option.name not in NO_KEYS}
        assert set(keys) == options
        flags = {key for key, kind in keys.items() if kind.kind.name == "FLAG"}
        assert flags == {
            key_of(option)
            for option in cli.commands[name].params
            if isinstance(option, click.Option) and option.is_flag and option.name not in NO_KEYS
        }


def said_of(command: str, key: str) -> tuple[str, list[str]]:
    """Say an option in both ways: as the table does, or by its kind alone."""
    plain = {"FLAG": ("true", [f"--{key}"]), "INTEGER": ("3", [f"--{key}=3"])}
    return SAID.get(key) or plain.get(schema_of(cli)[command][key].kind.name, ('"x"', [f"--{key}=x"]))


@pytest.fixture
def heard(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[object]:
    """Listen for the request values that commands build, and for how they would be carried out."""
    for name in BOUND:  # imported in here, they would keep what is put in its place
        import_module(name)
    said: list[object] = []

    def carry_out(plan: Plan, writing: stream.Writing, **_: object) -> None:
        said.append(writing)
        raise StopError(str(plan.source))

    def listening(name: str) -> Callable[..., Plan]:
        def planned(*values: object, **more: object) -> Plan:
            said.append((name, values, more))
            return Plan(tmp_path, "", 0, 0, (Output(tmp_path / "o" / "x.gguf", b"", (), 0),), ())

        return planned

    for name in ("plan_all", "plan_one", "plan_quantize"):
        monkeypatch.setattr(conversion, name, listening(name))
    monkeypatch.setattr(stream, "carry_out", carry_out)
    return said


@pytest.fixture
def place(tiny_llama: Path, calibrated_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Go to a folder with a model, a float file of it, an importance matrix, an adapter's name and rules."""
    shutil.copytree(tiny_llama, tmp_path / "llama")
    shutil.copyfile(calibrated_llama / "F16.gguf", tmp_path / "own.gguf")
    shutil.copyfile(calibrated_llama / "imatrix.gguf", tmp_path / "m.gguf")
    (tmp_path / "adapter").mkdir()
    (tmp_path / "rules.txt").write_text("attn_k=q8_0\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("command", "key"),
    [(command, key) for command in WRITERS for key in schema_of(cli)[command] if key not in ELSEWHERE],
)
def test_a_recipe_and_a_command_line_build_the_same_values(
    command: str, key: str, place: Path, heard: list[object]
) -> None:
    toml, words = said_of(command, key)
    out, made = WRITERS[command], "o/x.gguf" if command == "gguf" else "o"
    matrix = SAID["imatrix"] if key in NEEDS_IMATRIX else ("", [])
    said = {
        "models": f'"{MODELS[command]}"',
        "command": f'"{command}"',
        out: f'"{made}"',
        "imatrix": matrix[0],
        key: toml,
    }
    (place / "r.toml").write_text("".join(f"{name} = {value}\n" for name, value in said.items() if value))
    by_line = run(command, place / MODELS[command], place / made, *_whole([*words, *matrix[1]], place))
    told, heard[:] = list(map(_plain, heard)), []
    by_recipe = run("recipe", "run", "r.toml")
    assert list(map(_plain, heard)) == told
    errors = [type(result.exception) for result in (by_line, by_recipe)]
    assert errors == [StopError, StopError] or (key not in SAID and errors[0] is not StopError is not errors[1])


def _whole(words: list[str], place: Path) -> list[str]:
    """Say paths whole, as a recipe does; but not what the importance matrix is called."""
    named = [word == "--imatrix-name" for word in ["", *words]]
    paths = ("m.gguf", "rules.txt", "adapter", "adapter:0.5", "llama", "llama.cpp")
    return [
        str(place / word) if word in paths and not is_name else word
        for word, is_name in zip(words, named, strict=False)
    ]


def _plain(value: object) -> object:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    return repr(value)


FAULTS: Final = {
    'models = "lama"\noutdir = "o"\n': ["line 1: the model `lama` is not there: is it `{place}/llama`?"],
    'models = ["llama",\n  "run*/x"]\noutdir = "o"\n': ["line 2: no model fits `run*/x`"],
    'models = ["llama", "sub/llama"]\noutdir = "o"\n': [
        "line 1: `{place}/llama` and `{place}/sub/llama` are both called `llama`"
    ],
    'models = "llama"\n\n# where to\noutdri = "o"\n': [
        "line 1: `outdir` is missing, for the command `all`",
        "line 4: the key `outdri` is not known: is it `outdir`?",
    ],
    'models = "llama"\noutdir = "o"\npure = "yes"\njobs = 0\ntypes = "q4_k_x"\n': [
        "line 3: `pure` is `yes`, wanted true or false",
        "line 4: `jobs` is `0`, wanted a whole number, 1 at least",
        "line 5: unknown type `q4_k_x`",
    ],
    'models = "llama"\noutdir = "o"\nfrontend = "mine"\nmerge = ["no:0.5"]\n': [
        "line 3: `frontend` is `mine`, wanted one of auto, native, llama.cpp",
        "line 4: `merge`: `{place}/no` is not there",
    ],
    'models = "llama"\noutdir = "o"\n[tensor-type]\nattn_v = ["q8_0"]\n': [
        "line 3: `tensor-type` is `{'attn_v': ['q8_0']}`, wanted strings or numbers for its values"
    ],
    'models = "llama"\n[[job]]\noutdir = 3\n[[job]]\ncommand = "publsh"\n[[job]]\ncommand = "verify"\nfile = "x"\n': [
        "line 3: `outdir` is `3`, wanted a path, as a string",
        "line 5: `publsh` is no command; there are {commands}",
        "line 6: `files` is missing, for the command `verify`",
        "line 8: the key `file` is not known: is it `files`?",
    ],
    'models = ["llama", "copy"]\noutdir = "o"\npush-to-hub = "me/all"\n[[job]]\n[[job]]\ncommand = "publish"\n'
    'repository = "a/{model}/b"\ndirectory = "quantised"\n': [
        "line 3: `push-to-hub` is `me/all` for several models, wanted `{model}` in it",
        *(
            f"line 7: `a/{model}/b` cannot be a repository's name: Repo id must be in the form 'repo_name' or "
            f"'namespace/repo_name': 'a/{model}/b'. Use `repo_type` argument if needed."
            for model in ("copy", "llama")
        ),
        "line 8: `directory`: `{place}/quantised` is not there",
    ],
    'outdir = "o"\n': ["line 1: `models` is missing, for the command `all`"],
    'models = "llama"\noutdir = "o"\nimatrix = { txt = "t" }\n': [
        "line 3: `imatrix` is `{'txt': 't'}`, wanted a path, or a table of `text` and `chunks`"
    ],
}


@pytest.mark.parametrize("text", FAULTS)
def test_all_faults_are_told_together_with_their_lines(text: str, tiny_llama: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_llama, tmp_path / "llama")
    (tmp_path / "sub").mkdir()
    for link in ("sub/llama", "copy"):
        (tmp_path / link).symlink_to(tmp_path / "llama")
    recipe = tmp_path / "r.toml"
    recipe.write_text(text)
    with pytest.raises(RecipeError) as caught:
        read_recipe(recipe, schema_of(cli))
    words = {"{place}": str(tmp_path), "{commands}": ", ".join(schema_of(cli))}
    wanted = FAULTS[text]
    for word, value in words.items():
        wanted = [line.replace(word, value) for line in wanted]
    head = [f"`{recipe}`, {wanted[0]}"] if len(wanted) == 1 else [f"`{recipe}` has {len(wanted)} faults", *wanted]
    assert caught.value.message.splitlines() == head
    assert caught.value.exit_code == 8


def test_an_argument_of_several_models_is_the_jobs_or_the_model_itself(tiny_llama: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_llama, tmp_path / "llama")
    jobs = '[[job]]\ncommand = "report"\n[[job]]\ncommand = "report"\nmodels = "{path}"\ntypes = "q8_0"\n'
    (tmp_path / "r.toml").write_text(f'models = "llama"\n{jobs}')
    (batch,) = read_recipe(tmp_path / "r.toml", schema_of(cli)).batches
    assert [asked.options["models"] for asked in batch.steps] == [[str(tmp_path / "llama")], str(tmp_path / "llama")]


def test_what_is_no_toml_is_told_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text("models = 'x'\noutdir =\n")
    with pytest.raises(RecipeError, match=r"cannot be read: Invalid value \(at line 2, column 9\)"):
        read_recipe(tmp_path / "r.toml", schema_of(cli))


def test_lines_are_those_where_values_stand() -> None:
    text = 'a = 1\n# no\nb = [\n  "x",\n  { c = 2 },\n]\n\n[t]\nd = """\ne = 1\n"""\n[[job]]\nf = 1\n[[job]]\nf = 2\n'
    wanted = {
        ("a",): 1,
        ("b",): 3,
        ("b", 0): 4,
        ("b", 1): 5,
        ("b", 1, "c"): 5,
        ("t",): 8,
        ("t", "d"): 9,
        ("job",): 12,
        ("job", 0): 12,
        ("job", 0, "f"): 13,
        ("job", 1): 14,
        ("job", 1, "f"): 15,
    }
    assert line_numbers(text) == wanted


def test_toml_says_what_a_command_line_says() -> None:
    assert in_words("types", ["f16", "q8_0"]) == {"types": "f16,q8_0"}
    assert in_words("prune-layers", [3, 4]) == {"prune-layers": "3,4"}
    assert in_words("merge", {"adapter": "a:b"}) == {"merge": ["a:b:1.0"]}
    assert in_words("imatrix", {"text": "t", "chunks": 3}) == {"imatrix": "auto", "text": "t", "chunks": 3}
    assert in_words("max-divergence", {"q4_k_m": 0.05}) == {"max-divergence": ["q4_k_m=0.05"]}


def test_a_first_recipe_runs_as_it_is_and_is_never_written_over(tiny_llama: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_llama, tmp_path / "llama")
    recipe = tmp_path / "r.toml"
    assert run("recipe", "init", tmp_path / "llama", "-o", recipe).exit_code == 0
    planned = run("recipe", "check", recipe)
    assert planned.exit_code == 0
    assert f"all --types=f16,q8_0,q4_k_m --lock {tmp_path}/llama {tmp_path}/quantized/llama" in planned.stdout
    assert not (tmp_path / "quantized").exists()
    again = run("recipe", "init", tmp_path / "llama", "-o", recipe)
    assert isinstance(again.exception, ConvertError)
    assert again.exception.exit_code == 6


def test_a_gguf_file_is_quantized_and_a_mistake_in_a_step_names_its_command(place: Path) -> None:
    (place / "r.toml").write_text('models = ["own.gguf", "llama"]\noutdir = "o/{model}"\ntypes = "q8_0"\nchunks = 3\n')
    result = run("recipe", "run", "r.toml")
    assert [path.name for path in (place / "o").rglob("*.gguf")] == ["own-Q8_0.gguf"]
    assert isinstance(result.exception, ConvertError)
    assert result.exception.message == "`all`: --text and --chunks go with --imatrix auto"
    assert result.exception.exit_code == 2


def test_the_plan_of_what_reads_what_another_step_makes_is_known_then(tiny_llama: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_llama, tmp_path / "llama")
    jobs = '[[job]]\ncommand = "dequantize"\noutdir = "d/{model}"\n[[job]]\nmodel = "d/{model}"\noutdir = "q"\n'
    (tmp_path / "r.toml").write_text(f'models = "llama"\n{jobs}')
    result = run("recipe", "check", tmp_path / "r.toml")
    assert result.exit_code == 0
    assert f" all --lock {tmp_path}/d/llama {tmp_path}/q\nwhat it reads is made first" in result.stdout
