"""Meta's originals, judged by transformers' own conversion of the same files."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import pytest
import torch
from click.testing import CliRunner
from judges import judge
from meta_checkpoints import ROWS, MetaRow, params_of, write_meta
from peft_adapters import write_adapter

from convert.checkpoint import Stated, open_checkpoint
from convert.checkpoint.layouts.meta import published
from convert.cli import cli
from convert.conversion import convert_all, plan_one
from convert.dequantization import DequantizeRequest, carry_out_dequantize, plan_dequantize
from convert.errors import CheckpointError, ConfigError, ConvertError, Remedy
from convert.gguf_file import read_gguf
from convert.inspection import inspect
from convert.model import ModelRequest, model_request, open_model
from convert.plan import OutputRequest
from convert.verify.with_transformers import load_network

if TYPE_CHECKING:
    from pathlib import Path

CONTEXTS = {"1": 2048, "2": 4096, "3": 8192}
_CONVERT = """
import json, runpy, sys
for directory, out, n_parts, version in json.load(sys.stdin)["jobs"]:
    sys.argv = ["", "--input_dir", directory, "--output_dir", out, "--num_shards", n_parts, "--llama_version", version]
    runpy.run_path(ROOT + "/meta.py", run_name="__main__")
print("{}")
"""


@dataclass(frozen=True)
class Pair:
    """Meta's files, and what transformers makes of them, each in a directory of one name."""

    row: MetaRow
    meta: Path
    twin: Path

    @property
    def stated(self) -> ModelRequest:
        return model_request(self.meta, stated=Stated(context=CONTEXTS[self.row.version]))

    @property
    def told(self) -> ModelRequest:
        return model_request(self.meta, stated=Stated(config=self.twin / "config.json", tokenizer=self.twin))


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Pair]:
    root = tmp_path_factory.mktemp("meta")
    made = [Pair(row, write_meta(row, root / "meta" / row.name), root / "twin" / row.name) for row in ROWS]
    jobs = [[str(pair.meta), str(pair.twin), str(pair.row.n_parts), pair.row.version] for pair in made]
    judge(_CONVERT, {"jobs": jobs})
    for pair in made:
        (pair.twin / "generation_config.json").unlink(missing_ok=True)
    return {pair.row.name: pair for pair in made}


@pytest.fixture(params=[row.name for row in ROWS])
def pair(request: pytest.FixtureRequest, pairs: dict[str, Pair]) -> Pair:
    return pairs[request.param]


def hashes(model: Path | ModelRequest, out: Path, types: str = "f16,q4_0,q6_k") -> dict[str, str]:
    convert_all(model, OutputRequest(out, types))
    return {path.name: sha256(path.read_bytes()).hexdigest() for path in sorted(out.iterdir())}


def test_files_are_those_of_the_converted_checkpoint(pair: Pair, tmp_path: Path) -> None:
    assert hashes(pair.told, tmp_path / "ours") == hashes(pair.twin, tmp_path / "twin")


def test_without_its_config_all_but_what_only_transformers_says_is_the_same(pair: Pair, tmp_path: Path) -> None:
    hashes(pair.stated, tmp_path / "ours", "bf16")
    hashes(pair.twin, tmp_path / "twin", "bf16")
    ours, twin = (read_gguf(tmp_path / side / f"{pair.row.name}-BF16.gguf") for side in ("ours", "twin"))
    added = {key: value for key, value in ours.metadata.items() if twin.metadata.get(key) != value}
    lacking = set(twin.metadata) - set(ours.metadata)
    if pair.row.is_ranked:  # that script forgets BOS, which the published tokenizer.json puts in front
        assert added == {"tokenizer.ggml.add_bos_token": True, "tokenizer.ggml.add_sep_token": False}
        assert lacking == set()
    else:
        # Its tokenizer_config.json says <unk>, <s> and </s> again, as added tokens.
        again = {"tokenizer.ggml.scores", "tokenizer.ggml.token_type"}
        assert {key: value[3:] for key, value in added.items()} == {key: twin.metadata[key][3:] for key in again}
        said = ("unknown_token_id", "add_bos_token", "add_eos_token", "add_sep_token", "add_space_prefix")
        assert lacking <= {f"tokenizer.ggml.{key}" for key in said}
    assert [(t.name, t.shape, t.type) for t in ours.tensors] == [(t.name, t.shape, t.type) for t in twin.tensors]
    ours_bytes, twin_bytes = ours.path.read_bytes(), twin.path.read_bytes()
    for one, other in zip(ours.tensors, twin.tensors, strict=True):
        assert ours_bytes[one.offset :][: one.nbytes] == twin_bytes[other.offset :][: other.nbytes], one.name


def test_dequantize_writes_what_transformers_loads(pair: Pair, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    carry_out_dequantize(plan_dequantize(pair.stated, DequantizeRequest(tmp_path / "plain")))
    ours, twin = (AutoModelForCausalLM.from_pretrained(path) for path in (tmp_path / "plain", pair.twin))
    tokens = torch.arange(20)[None]
    assert torch.equal(ours(tokens).logits, twin(tokens).logits)
    if pair.row.is_ranked:
        text = "Once upon a time there was a caf\u00e9, and 1234 cats\n\n <|eot_id|>!"
        one, other = (AutoTokenizer.from_pretrained(path) for path in (tmp_path / "plain", pair.twin))
        assert one.encode(text, add_special_tokens=False) == other.encode(text, add_special_tokens=False)
        assert one.encode("a")[0] == one.bos_token_id


def test_transformers_reads_it_for_comparison(pair: Pair) -> None:
    from transformers import AutoModelForCausalLM

    network, twin = load_network(open_model(pair.stated)), AutoModelForCausalLM.from_pretrained(pair.twin)
    tokens = torch.arange(20)[None]
    assert torch.equal(network(tokens).logits, twin.float()(tokens).logits)


def test_an_adapter_is_merged_as_into_the_converted_checkpoint(pairs: dict[str, Pair], tmp_path: Path) -> None:
    pair = pairs["llama-2"]
    adapter = write_adapter(pair.twin, tmp_path / "adapter", r=4, target_modules=["q_proj", "k_proj", "down_proj"])
    ours = ModelRequest(pair.told.path, model_request(pair.twin, merge=[adapter]).adapters, stated=pair.told.stated)
    assert hashes(ours, tmp_path / "ours") == hashes(model_request(pair.twin, merge=[adapter]), tmp_path / "twin")


def test_the_commands_read_it(pairs: dict[str, Pair], tmp_path: Path) -> None:
    meta, context = str(pairs["llama-3"].meta), ["--context", "8192"]
    for command in (
        ["inspect", meta, *context, "--json"],
        ["gguf", meta, str(tmp_path / "a.gguf"), "--type", "q8_0", *context],
        ["verify", str(tmp_path / "a.gguf"), "--against", meta, *context, "--no-llama-cpp"],
        ["dequantize", meta, str(tmp_path / "plain"), *context],
    ):
        result = CliRunner().invoke(cli, command, catch_exceptions=False)
        assert result.exit_code == 0, result.output
    inspection = inspect(meta, Stated(context=8192))
    assert inspection.problem is None
    assert inspection.packing is None
    assert inspection.notes[0] == "reads the format of Meta: `consolidated.00.pth`, `consolidated.01.pth`"


def test_weights_of_transformers_beside_them_count_first(pairs: dict[str, Pair], tmp_path: Path) -> None:
    shutil.copytree(pairs["llama-2"].twin, tmp_path / "both")
    shutil.copytree(pairs["llama-2"].meta, tmp_path / "both", dirs_exist_ok=True)
    assert "model.layers.0.mlp.up_proj.weight" in open_checkpoint(tmp_path / "both").tensors
    assert open_checkpoint(tmp_path / "both" / "consolidated.00.pth").arrange is not None


@pytest.mark.parametrize(
    ("params", "context", "factor", "is_tied"),
    [
        ({"dim": 4096, "n_layers": 32, "norm_eps": 1e-6}, 2048, None, False),
        ({"dim": 4096, "n_layers": 32, "norm_eps": 1e-5}, 4096, None, False),
        ({"dim": 4096, "n_layers": 32, "norm_eps": 1e-5, "rope_theta": 1e6}, 16384, None, False),
        ({"dim": 4096, "n_layers": 32, "n_kv_heads": 8, "norm_eps": 1e-5, "rope_theta": 5e5}, 8192, None, False),
        ({"dim": 8192, "n_layers": 80, "n_kv_heads": 8, "norm_eps": 1e-5}, 4096, None, False),
        ({"dim": 8192, "n_layers": 80, "n_kv_heads": 8, "norm_eps": 1e-5, "rope_theta": 5e5}, 8192, None, False),
        (
            {
                "dim": 8192,
                "n_layers": 80,
                "n_kv_heads": 8,
                "norm_eps": 1e-5,
                "rope_theta": 5e5,
                "use_scaled_rope": True,
            },
            131072,
            8.0,
            False,
        ),
        (
            {
                "dim": 2048,
                "n_layers": 16,
                "n_kv_heads": 8,
                "norm_eps": 1e-5,
                "rope_theta": 5e5,
                "use_scaled_rope": True,
            },
            131072,
            32.0,
            True,
        ),
    ],
)
def test_published_models_are_known(
    params: dict[str, Any], context: int, factor: float | None, is_tied: bool, tmp_path: Path
) -> None:
    (tmp_path / "params.json").write_text(json.dumps({"n_heads": 32, **params}))
    known = published(tmp_path / "params.json", Stated())
    assert (known.context, known.factor, known.is_tied) == (context, factor, is_tied)


# --- What cannot be known, and what is wrong --------------------------------------------------------------------------


def _broken(tmp_path: Path, *, n_parts: int = 2, **params: object) -> Path:
    row = next(row for row in ROWS if row.name == ("llama-2" if n_parts > 1 else "llama-1"))
    directory = write_meta(row, tmp_path / "meta")
    (directory / "params.json").write_text(json.dumps(params_of(row) | params))
    return directory


def _refused(directory: Path, context: int | None = 4096) -> CheckpointError:
    with pytest.raises(CheckpointError) as caught:
        plan_one(model_request(directory, stated=Stated(context=context)), directory / "out.gguf")
    return caught.value


def test_what_no_file_says_is_asked_for(tmp_path: Path) -> None:
    error = _refused(_broken(tmp_path), None)
    assert "does not say how long a text may be" in error.message
    assert error.remedies == (Remedy.GIVE_CONTEXT, Remedy.GIVE_CONFIG)


def test_the_factor_of_a_scaled_rope_is_asked_for(tmp_path: Path) -> None:
    error = _refused(_broken(tmp_path, use_scaled_rope=True))
    assert "does not say by which factor its rope is scaled" in error.message
    assert error.remedies == (Remedy.GIVE_CONFIG,)


def _lose_one(directory: Path) -> None:
    (directory / "consolidated.00.pth").unlink()


def _change(name: str, change: Any) -> Any:  # noqa: ANN401 - a function of a dict of tensors
    def damage(directory: Path) -> None:
        part = torch.load(directory / "consolidated.01.pth")
        part[name] = change(part.get(name))
        torch.save({key: value for key, value in part.items() if value is not None}, directory / "consolidated.01.pth")

    return damage


class _Runs:
    def __reduce__(self) -> tuple[Any, ...]:
        return eval, ("print('was run')",)


def _run(directory: Path) -> None:
    torch.save({"a": _Runs()}, directory / "consolidated.01.pth")


@pytest.mark.parametrize(
    ("damage", "params", "message"),
    [
        (_lose_one, {}, "lacks 1 of 2 files, by their numbers: `consolidated.00.pth`"),
        (_change("norm.weight", lambda _: None), {}, "are not parts of one model: only one has `norm.weight`"),
        (_change("layers.0.attention.wq.weight", lambda t: t[:-16].clone()), {}, "have shapes (32, 64) and (16, 64)"),
        (_change("layers.0.attention.wq.weight", lambda t: t.float()), {}, "types BF16 and F32: wanted alike"),
        (_run, {}, "to load it would run `__builtin__.eval`; nothing in it was executed"),
        (None, {"dim": 128}, "says a width of 128"),
        (None, {"n_kv_heads": 4}, "has shape (16, 64), "),
        (None, {"multiple_of": 128}, "has shape (96, 64), "),
        (None, {"n_heads": 5}, "5 heads and a width of 64: not an even number for each"),
        (None, {"n_heads": 0}, "`n_heads` in"),
        (None, {"norm_eps": None}, "lacks `norm_eps`"),
        (None, {"vocab_size": 999}, "says a vocabulary of `999`, `tok_embeddings.weight` has 1024"),
        (None, {"n_layers": 3}, "lacks 9 tensors that the model needs"),
    ],
)
def test_contradictions_are_told_before_any_output(
    damage: Any,  # noqa: ANN401
    params: dict[str, Any],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    directory = _broken(tmp_path, **params)
    if damage is not None:
        damage(directory)
    with pytest.raises(ConvertError) as caught:
        plan_one(model_request(directory, stated=Stated(context=4096)), directory / "out.gguf")
    assert message in str(caught.value)
    assert not (directory / "out.gguf").exists()
    assert "was run" not in capsys.readouterr().out


def test_without_params_json_nothing_is_guessed(tmp_path: Path) -> None:
    directory = _broken(tmp_path)
    (directory / "params.json").unlink()
    assert "params.json" in (_refused(directory).hint or "")


def test_a_list_of_ranks_that_is_none_is_refused(tmp_path: Path) -> None:
    row = next(row for row in ROWS if row.name == "llama-3-one")
    directory = write_meta(row, tmp_path / "meta")
    lines = (directory / "tokenizer.model").read_bytes().splitlines(keepends=True)
    for damaged, message in (
        (lines[:1] + lines[2:], "ranks are not 0 to 596"),
        ([*lines, lines[0]], "ranks are not 0 to 598"),
        ([*lines, b"??? 598\n"], "line 599 is not a token in base64 and its rank"),
    ):
        (directory / "tokenizer.model").write_bytes(b"".join(damaged))
        assert message in _refused(directory, 8192).message


def test_a_stated_config_that_contradicts_the_tensors_is_told(tmp_path: Path) -> None:
    directory = _broken(tmp_path)
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 32, "num_hidden_layers": 2}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError):
        plan_one(model_request(directory, stated=Stated(config=tmp_path / "config.json")), directory / "out.gguf")
