"""LitGPT's checkpoints, made and judged by LitGPT itself."""

from __future__ import annotations

import json
import pathlib
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from judges import judge
from layout_files import hashes, refused
from litgpt_checkpoints import LIT_ROWS, write_lit
from torch.distributed.checkpoint.state_dict_saver import save

from convert.adapter import resolve_model
from convert.checkpoint import SourceFiles, matrix_shape, open_checkpoint
from convert.checkpoint.packed import model_tensors
from convert.checkpoint.views import read_rows
from convert.gguf_file import read_gguf
from convert.model import model_request, open_model

pytestmark = pytest.mark.shared
NAMES = tuple(row.name for row in LIT_ROWS)


@pytest.fixture(scope="module")
def lit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("litgpt")
    write_lit(LIT_ROWS, root)
    return root


@pytest.mark.parametrize("name", NAMES)
def test_files_are_those_of_the_checkpoint_that_litgpt_read(name: str, lit: Path, tmp_path: Path) -> None:
    assert hashes(lit / "lit" / name, tmp_path / "lit") == hashes(lit / "twin" / name, tmp_path / "twin")


# Without config.json: what only that says. Its ids of special tokens, of tokenizers that do not say them themselves.
_NOT_IN_LITGPT = {"tokenizer.ggml.bos_token_id", "tokenizer.ggml.eos_token_id", "tokenizer.ggml.padding_token_id"}


@pytest.mark.parametrize("name", NAMES)
def test_without_config_json_model_config_yaml_says_the_same(name: str, lit: Path, tmp_path: Path) -> None:
    directory = shutil.copytree(lit / "lit" / name, tmp_path / name)
    (directory / "config.json").unlink()
    hashes(directory, tmp_path / "lit", "f16")
    hashes(lit / "twin" / name, tmp_path / "twin", "f16")
    ours, twin = (read_gguf(tmp_path / side / f"{name}-F16.gguf") for side in ("lit", "twin"))
    keys = {*ours.metadata, *twin.metadata}
    differing = {key for key in keys if ours.metadata.get(key) != twin.metadata.get(key)}
    assert {key: (ours.metadata.get(key), twin.metadata.get(key)) for key in differing - _NOT_IN_LITGPT} == {}
    assert [(t.name, t.shape, t.type) for t in ours.tensors] == [(t.name, t.shape, t.type) for t in twin.tensors]


# --- What LitGPT's own runs leave -------------------------------------------------------------------------------------


def _changed(lit: Path, name: str, tmp_path: Path, change: Any) -> Path:  # noqa: ANN401 - a function of a state dict
    directory = shutil.copytree(lit / "lit" / name, tmp_path / "changed" / name)
    state = torch.load(directory / "lit_model.pth")
    torch.save(change(state), directory / "lit_model.pth")
    return directory


def _pretrained(state: dict[str, Any]) -> dict[str, Any]:
    wrapped = {f"_orig_mod.{name}": tensor for name, tensor in state.items()}
    hyperparameters = {"out_dir": pathlib.PosixPath("out/pretrain"), "data": {"seed": 42}, "precision": "bf16-true"}
    return {"model": wrapped, "hparams": hyperparameters, "iter_num": 100, "step_count": 25}


def _old(state: dict[str, Any]) -> dict[str, Any]:
    """Interleave Q, K and V by group of queries, as before LitGPT 0.5.4; each of these models has 4 heads of 16."""
    changed = {}
    for name, tensor in state.items():
        if ".attn.qkv." not in name:
            changed[name] = tensor
            continue
        n_groups = (len(tensor) // 16 - 4) // 2
        query, key, value = tensor.split([64, 16 * n_groups, 16 * n_groups])
        parts = zip(query.chunk(n_groups), key.chunk(n_groups), value.chunk(n_groups), strict=True)
        changed[name.replace(".qkv.", ".attn.")] = torch.cat([part for group in parts for part in group])
    return changed


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("Mistral-7B-v0.3", _pretrained),
        ("Mistral-7B-v0.3", _old),
        ("Qwen2.5-0.5B", _old),
        ("pythia-70m", _old),
        ("Phi-3-mini-4k-instruct", _old),
    ],
)
def test_other_forms_of_the_same_give_the_same_files(name: str, change: Any, lit: Path, tmp_path: Path) -> None:  # noqa: ANN401
    directory = _changed(lit, name, tmp_path, change)
    assert hashes(directory, tmp_path / "lit", "f16") == hashes(lit / "twin" / name, tmp_path / "twin", "f16")


def test_a_folder_that_processes_saved_together_is_read(lit: Path, tmp_path: Path) -> None:
    """What Fabric's FSDP leaves of a run: `lit_model.pth` is a folder. Its save is torch's, of `{"model": …}`."""
    directory = shutil.copytree(lit / "lit" / NAMES[0], tmp_path / "spread" / NAMES[0])
    state = torch.load(directory / "lit_model.pth")
    (directory / "lit_model.pth").unlink()
    with pytest.warns(UserWarning, match="in a single process"):
        save({"model": state}, checkpoint_id=directory / "lit_model.pth", no_dist=True)
    assert hashes(directory, tmp_path / "ours", "f16") == hashes(lit / "twin" / NAMES[0], tmp_path / "twin", "f16")


def test_an_output_that_training_untied_is_kept(lit: Path, tmp_path: Path) -> None:
    """LitGPT ties nothing when it trains: of a tied model it then has two matrices."""
    directory = _changed(lit, "Llama-3.2-1B", tmp_path, lambda s: {**s, "lm_head.weight": s["lm_head.weight"] * 2})
    assert json.loads((directory / "config.json").read_text())["tie_word_embeddings"] is True
    assert "lm_head.weight" in model_tensors(open_checkpoint(directory)).tensors
    assert open_checkpoint(directory).known_config["tie_word_embeddings"] is False
    same = _changed(lit, "Llama-3.2-1B", tmp_path / "same", lambda s: {n: t.clone() for n, t in s.items()})
    assert "lm_head.weight" not in model_tensors(open_checkpoint(same)).tensors


# --- LoRA -------------------------------------------------------------------------------------------------------------

_LORA = """
import json, pathlib, sys, torch, yaml
from litgpt.lora import GPT, Config
from litgpt.scripts.merge_lora import merge_lora
request = json.load(sys.stdin)
for base, out in request["jobs"]:
    base, out = pathlib.Path(base), pathlib.Path(out)
    model = GPT(Config.from_file(base / "model_config.yaml", **request["lora"]))
    torch.manual_seed(5)
    state = {name: torch.randn_like(value) * 0.1 for name, value in model.state_dict().items() if "lora_" in name}
    torch.save({"model": state}, out / "lit_model.pth.lora")
    said = {**request["lora"], "checkpoint_dir": str(base), "precision": "32-true"}
    (out / "hyperparameters.yaml").write_text(yaml.dump(said))
    merged = out.parent / "merged" / out.name
    merged.mkdir(parents=True)
    for path in [*out.iterdir()]:
        (merged / path.name).write_bytes(path.read_bytes())
    (merged / "tokenizer.json").touch()
    merge_lora(merged)
print("{}")
"""
_TARGETS = {"lora_query": True, "lora_key": False, "lora_value": True, "lora_projection": True, "lora_mlp": True}


def test_lora_is_merged_as_litgpt_merges_it(lit: Path, tmp_path: Path) -> None:
    jobs = []
    for name in ("Mistral-7B-v0.3", "Qwen3-0.6B", "phi-2"):
        base = _changed(lit, name, tmp_path, lambda s: {n: t.float() for n, t in s.items()})
        (tmp_path / "lora" / name).mkdir(parents=True)
        for file in ("model_config.yaml", "tokenizer.json", "tokenizer.model", "tokenizer_config.json", "config.json"):
            if (base / file).is_file():
                shutil.copy(base / file, tmp_path / "lora" / name)
        jobs.append([str(base), str(tmp_path / "lora" / name)])
    lora = {"lora_r": 4, "lora_alpha": 8, "lora_dropout": 0.0, "lora_head": False, **_TARGETS}
    judge(_LORA, {"jobs": jobs, "lora": lora})
    for base_path, adapter in jobs:
        merged = open_model(model_request(base_path, merge=[adapter]))
        wanted = model_tensors(open_checkpoint(tmp_path / "lora" / "merged" / Path(adapter).name)).tensors
        files = SourceFiles()
        for name, tensor in wanted.items():
            rows = range(matrix_shape(tensor.shape)[0])
            ours, theirs = (read_rows(each, files, rows).view(np.float32) for each in (merged.tensors[name], tensor))
            np.testing.assert_allclose(ours, theirs, rtol=2e-6, atol=2e-7, err_msg=name)
        assert resolve_model(Path(adapter)).model == Path(base_path)


def test_lora_on_what_transformers_fuses_is_told(lit: Path, tmp_path: Path) -> None:
    base, adapter = lit / "lit" / "pythia-70m", tmp_path / "adapter"
    adapter.mkdir()
    shutil.copy(base / "model_config.yaml", adapter)
    (adapter / "hyperparameters.yaml").write_text("lora_r: 2\nlora_alpha: 4\nlora_query: true\n")
    torch.save({"transformer.h.0.attn.qkv.lora_A": torch.ones(2, 64)}, adapter / "lit_model.pth.lora")
    error = refused(model_request(base, merge=[adapter]), tmp_path / "out.gguf")
    assert "in one tensor" in error.message
    assert "litgpt merge_lora" in (error.hint or "")


# --- Hostile ----------------------------------------------------------------------------------------------------------


def _said(**values: object) -> Any:  # noqa: ANN401 - changes a directory
    def change(directory: Path) -> None:
        said = yaml.safe_load((directory / "model_config.yaml").read_text())
        (directory / "model_config.yaml").write_text(yaml.dump(said | values))
        (directory / "config.json").unlink()

    return change


def _text(text: str) -> Any:  # noqa: ANN401
    return lambda directory: (directory / "model_config.yaml").write_text(text)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_said(n_embd=128), "says (1024, 128)"),
        (_said(n_query_groups=3), "says 3 groups of 4 heads"),
        (_said(n_query_groups=4), "says (192, 64)"),
        (_said(mlp_class_name="Mystery"), "`mlp_class_name` in"),
        (_said(n_layer=3), "lacks 9 tensors"),
        (_said(n_layer=-1), "`n_layer` in"),
        (_said(intermediate_size=100), "config.json says"),
        (_text("a: &a [1]\nb: *a\n"), "has YAML aliases"),
        (_text("!!python/object/apply:os.system ['exit']"), "is not YAML of plain values"),
        (_text("- 1\n"), "no mapping of names"),
        (_text("a: [" * 5000), "is not YAML of plain values"),
        (_text("x: 1\n" * 300000), "at most 1048576 are read"),
    ],
)
def test_contradictions_are_told_before_any_output(damage: Any, message: str, lit: Path, tmp_path: Path) -> None:  # noqa: ANN401
    directory = shutil.copytree(lit / "lit" / "Mistral-7B-v0.3", tmp_path / "hostile")
    damage(directory)
    assert message in refused(directory, tmp_path / "out.gguf").message


def test_a_pickle_that_would_run_something_is_refused(lit: Path, tmp_path: Path) -> None:
    class Runs:
        def __reduce__(self) -> tuple[Any, ...]:
            return print, ("was run",)

    directory = _changed(lit, "Mistral-7B-v0.3", tmp_path, lambda s: {"model": s, "hparams": Runs()})
    assert "nothing in it was executed" in refused(directory, tmp_path / "out.gguf").message
