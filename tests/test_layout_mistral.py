"""Mistral's own checkpoints, judged by the reference's `--mistral-format` with mistral-common."""

from __future__ import annotations

import base64
import json
import re
import shutil
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
from checkpoint_tokenizers import TINY_LLAMA, write_byte_level_bpe
from judges import judge
from layout_files import hashes, refused
from peft_adapters import TOKENIZER_FILES, write_base

from convert.checkpoint import Stated
from convert.gguf_file import read_gguf
from convert.model import model_request
from convert.tokenizer.alphabet import BYTE_OF_CHAR
from convert.tokenizer.pre_tokenizer_table import TEKKEN_REGEX

if TYPE_CHECKING:
    from pathlib import Path

N_SPECIAL, N_TEKKEN = 40, 598
YARN = {"factor": 16.0, "beta": 32.0, "alpha": 1.0, "original_max_position_embeddings": 256, "apply_scale": False}


@dataclass(frozen=True)
class Row:
    """A checkpoint. params: more of params.json."""

    name: str
    is_tekken: bool
    is_fp8: bool = False
    n_files: int = 1
    params: dict[str, Any] = field(default_factory=dict)


ROWS = (
    Row("mistral-spm", is_tekken=False, n_files=2),
    Row("mistral-tekken", is_tekken=True, params={"tied_embeddings": True}),
    Row("mistral-fp8", is_tekken=True, is_fp8=True, params={"quantization": {"qformat_weight": "fp8_e4m3"}}),
    Row("ministral-3", is_tekken=True, params={"yarn": YARN, "llama_4_scaling": {"beta": 0.1}}),
)
_CONVERT = """
import json, sys
request = json.load(sys.stdin)
sys.path.insert(0, request["source"])
import convert_hf_to_gguf
for model, out in request["jobs"]:
    sys.argv = ["", model, "--outtype", "f16", "--outfile", out, "--mistral-format"]
    sys.argv += ["--disable-mistral-community-chat-template"]
    convert_hf_to_gguf.main()
print("{}")
"""


def write_mistral(row: Row, directory: Path) -> Path:
    import torch
    from safetensors.torch import save_file

    directory.mkdir(parents=True)
    n_tokens = N_TEKKEN + N_SPECIAL if row.is_tekken else 1024
    params: dict[str, Any] = {"dim": 64, "n_layers": 2, "n_heads": 4, "n_kv_heads": 2, "head_dim": 32, "hidden_dim": 96}
    params |= {"norm_eps": 1e-5, "vocab_size": n_tokens, "rope_theta": 1000000.0, "max_position_embeddings": 4096}
    (directory / "params.json").write_text(json.dumps(params | row.params))
    torch.manual_seed(4)
    shapes: dict[str, tuple[int, ...]] = {"tok_embeddings.weight": (n_tokens, 64), "norm.weight": (64,)}
    shapes |= {} if row.params.get("tied_embeddings") else {"output.weight": (n_tokens, 64)}
    for layer in ("layers.0", "layers.1"):
        shapes |= {f"{layer}.attention.wq.weight": (128, 64), f"{layer}.attention.wk.weight": (64, 64)}
        shapes |= {f"{layer}.attention.wv.weight": (64, 64), f"{layer}.attention.wo.weight": (64, 128)}
        shapes |= {f"{layer}.feed_forward.w{n}.weight": (64, 96) if n == 2 else (96, 64) for n in (1, 2, 3)}
        shapes |= {f"{layer}.attention_norm.weight": (64,), f"{layer}.ffn_norm.weight": (64,)}
    tensors = {name: (torch.randn(shape) * 0.1).to(torch.bfloat16) for name, shape in shapes.items()}
    for name in [name for name in tensors if row.is_fp8 and name.startswith("layers") and "norm" not in name]:
        module = name.removesuffix(".weight")
        tensors[name] = (tensors[name].float() * 64).to(torch.float8_e4m3fn)
        tensors |= {f"{module}.qscale_weight": torch.tensor(1 / 64), f"{module}.qscale_act": torch.tensor(0.5)}
    names = sorted(tensors)
    for number in range(row.n_files):
        file = "consolidated.safetensors" if row.n_files == 1 else f"consolidated-0000{number + 1}-of-00002.safetensors"
        save_file({name: tensors[name] for name in names[number :: row.n_files]}, directory / file)
    write_tekken(directory) if row.is_tekken else shutil.copy(TINY_LLAMA / "tokenizer.model", directory)
    return directory


def write_tekken(directory: Path) -> None:
    scratch = directory / "scratch"
    scratch.mkdir()
    write_byte_level_bpe(scratch)
    vocabulary = json.loads((scratch / "tokenizer.json").read_text())["model"]["vocab"]
    shutil.rmtree(scratch)
    texts = sorted(vocabulary, key=vocabulary.__getitem__)
    made = [bytes(BYTE_OF_CHAR[char] for char in text) for text in texts]
    tokens = [bytes([byte]) for byte in range(256)] + [token for token in made if len(token) > 1]
    listed = [{"rank": rank, "token_bytes": base64.b64encode(token).decode(), "token_str": None}
              for rank, token in enumerate(tokens)]  # fmt: skip
    config = {"pattern": TEKKEN_REGEX, "num_vocab_tokens": len(tokens), "default_vocab_size": N_TEKKEN + N_SPECIAL}
    config |= {"default_num_special_tokens": N_SPECIAL, "version": "v7"}
    values = {"config": config, "vocab": listed, "version": 1, "type": "Tekken"}
    (directory / "tekken.json").write_text(json.dumps(values))


@pytest.fixture(scope="module")
def made(reference_source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("mistral")
    directories = [write_mistral(row, root / row.name) for row in ROWS]
    jobs = [[str(directory), str(root / f"{directory.name}.gguf")] for directory in directories]
    judge(_CONVERT, {"source": str(reference_source), "jobs": jobs})
    return root


# What the reference writes of Mistral's format alone, and what only transformers' words have: neither changes a result.
_REFERENCE_ONLY = {"tokenizer.ggml.scores", "tokenizer.ggml.add_eos_token", "tokenizer.ggml.add_bos_token",
                   "tokenizer.ggml.padding_token_id", "tokenizer.ggml.unknown_token_id"}  # fmt: skip
_OURS_ONLY = {"tokenizer.ggml.add_sep_token", "tokenizer.ggml.pre"}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_tensors_and_metadata_are_the_references(row: Row, made: Path, tmp_path: Path) -> None:
    hashes(made / row.name, tmp_path / "ours", "f16")
    ours, theirs = read_gguf(tmp_path / "ours" / f"{row.name}-F16.gguf"), read_gguf(made / f"{row.name}.gguf")
    keys = {*ours.metadata, *theirs.metadata}
    differing = {key: (ours.metadata.get(key), theirs.metadata.get(key)) for key in keys}
    differing = {key: pair for key, pair in differing.items() if pair[0] != pair[1]}
    assert {key for key, (mine, _) in differing.items() if mine is None} <= _REFERENCE_ONLY
    assert {key for key, (_, other) in differing.items() if other is None} <= _OURS_ONLY
    assert {key: pair for key, pair in differing.items() if None not in pair} == {}
    mine, other = ours.path.read_bytes(), theirs.path.read_bytes()
    found = {t.name: (t.shape, t.type, mine[t.offset :][: t.nbytes]) for t in ours.tensors}
    assert found == {t.name: (t.shape, t.type, other[t.offset :][: t.nbytes]) for t in theirs.tensors}


def test_a_versioned_tokenizer_model_is_read(made: Path, tmp_path: Path) -> None:
    directory = shutil.copytree(made / "mistral-spm", tmp_path / "a" / "mistral-spm")
    (directory / "tokenizer.model").rename(directory / "tokenizer.model.v3")
    assert hashes(directory, tmp_path / "ours", "f16") == hashes(made / "mistral-spm", tmp_path / "same", "f16")


def test_a_mixture_is_that_of_transformers(tmp_path: Path) -> None:
    """The reference takes every mixture in this form for a model with latent attention."""
    import torch
    from safetensors.torch import load_file, save_file

    twin = write_base(tmp_path / "twin" / "mix", mixtral=True, num_local_experts=2, num_experts_per_tok=2)
    twin_config = json.loads((twin / "config.json").read_text())
    (twin / "generation_config.json").unlink(missing_ok=True)
    own = tmp_path / "own" / "mix"
    own.mkdir(parents=True)
    for name in TOKENIZER_FILES:
        shutil.copy(twin / name, own)
    params = {"dim": 64, "n_layers": 2, "n_heads": 4, "n_kv_heads": 2, "hidden_dim": twin_config["intermediate_size"]}
    params |= {"norm_eps": twin_config["rms_norm_eps"], "vocab_size": 1024, "max_position_embeddings": 128}
    params |= {"moe": {"num_experts": 2, "num_experts_per_tok": 2}}
    params |= {"rope_theta": twin_config["rope_parameters"]["rope_theta"]}
    (own / "params.json").write_text(json.dumps(params))
    tensors = {}
    for name, tensor in load_file(twin / "model.safetensors").items():
        plain = name.removeprefix("model.").replace("embed_tokens", "tok_embeddings").replace("lm_head", "output")
        plain = plain.replace("self_attn.", "attention.").replace("block_sparse_moe.", "feed_forward.")
        plain = plain.replace("input_layernorm", "attention_norm").replace("post_attention_layernorm", "ffn_norm")
        plain = re.sub(r"attention\.([qkvo])_proj", r"attention.w\1", plain)
        heads = tensor.split(16) if plain.endswith(("wq.weight", "wk.weight")) else []
        pairs = [head.reshape(2, 8, 64).transpose(0, 1).reshape(16, 64) for head in heads]
        tensors[plain] = torch.cat(pairs) if pairs else tensor.contiguous()
    save_file(tensors, own / "consolidated.safetensors")
    assert hashes(own, tmp_path / "a", "f16,q4_0") == hashes(twin, tmp_path / "b", "f16,q4_0")


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"vocab_size": 100}, "says (100, 64)"),
        ({"n_kv_heads": 4}, "says (128, 64)"),
        ({"hidden_dim": 32}, "says (32, 64)"),
        ({"n_layers": 3}, "lacks 9 tensors"),
        ({"n_heads": True}, "`n_heads` in"),
        ({"max_position_embeddings": None}, "does not say how long a text may be"),
        ({"kv_lora_rank": 4}, "latent attention"),
        ({"quantization": {"qformat_weight": "int3"}}, "only fp8_e4m3 is read"),
        ({"yarn": YARN}, "without the other"),
    ],
)
def test_contradictions_are_told_before_any_output(
    params: dict[str, Any], message: str, made: Path, tmp_path: Path
) -> None:
    directory = shutil.copytree(made / "mistral-spm", tmp_path / "hostile")
    said = json.loads((directory / "params.json").read_text())
    (directory / "params.json").write_text(json.dumps(said | params))
    assert message in refused(directory, tmp_path / "out.gguf").message


def test_a_context_is_taken_from_who_asks(made: Path, tmp_path: Path) -> None:
    request = model_request(made / "mistral-spm", stated=Stated(context=123))
    hashes(request, tmp_path, "f16")
    assert read_gguf(tmp_path / "mistral-spm-F16.gguf").metadata["llama.context_length"] == 123


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: v["config"].pop("pattern"), "`config.pattern` is"),
        (lambda v: v["vocab"].pop(300), "whose ranks are not 0 to 597"),
        (lambda v: v["vocab"][3].update({"token_bytes": "?"}), "is not base64"),
        (lambda v: v["config"].update(default_num_special_tokens=10, default_vocab_size=608), "its config says 10"),
        (lambda v: v.update(special_tokens=[{"rank": 1, "token_str": "<s>"}]), "do not count from 0"),
    ],
)
def test_a_tekken_that_contradicts_itself_is_told(change: Any, message: str, made: Path, tmp_path: Path) -> None:  # noqa: ANN401
    directory = shutil.copytree(made / "mistral-tekken", tmp_path / "hostile")
    values = json.loads((directory / "tekken.json").read_text())
    change(values)
    (directory / "tekken.json").write_text(json.dumps(values))
    assert message in refused(directory, tmp_path / "out.gguf").message
