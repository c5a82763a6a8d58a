"""`inspect`'s memory table, compared to the byte with what transformers and bitsandbytes save, and with GGUFs."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from typing import TYPE_CHECKING, Any, Final

import pytest

import convert
from convert.memory.groups import gguf_group_of, group_of
from convert.memory.table import COMPARED_MODELS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    import torch

    from convert.inspection import Inspection
    from convert.memory import MemoryRow

SIZES: Final = {
    "hidden_size": 64,
    "intermediate_size": 172,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": 101,
    "max_position_embeddings": 128,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
GROUPED: Final = SIZES | {"num_key_value_heads": 2}
GPT: Final = {"n_embd": 64, "n_layer": 2, "n_head": 4, "vocab_size": 101, "n_positions": 128} | {
    key: value for key, value in SIZES.items() if key.endswith("token_id")
}
EXPERTS: Final = {"moe_intermediate_size": 48, "num_experts": 4, "num_experts_per_tok": 2}

# Those that `convert` makes GGUFs of: (model_type, config).
MODELS: Final[Mapping[str, tuple[str, Mapping[str, Any]]]] = {
    "llama": ("llama", GROUPED),
    "tied": ("llama", GROUPED | {"tie_word_embeddings": True}),
    "biases": ("llama", GROUPED | {"attention_bias": True, "mlp_bias": True}),
    # 51 x 35: the last block is short, and the last byte holds one value
    "odd": (
        "llama",
        GROUPED
        | {
            "hidden_size": 35,
            "intermediate_size": 51,
            "num_attention_heads": 5,
            "head_dim": 18,
            "num_key_value_heads": 5,
        },
    ),
    # more than 256 blocks, so that double quantization has several blocks of its own
    "wide": ("llama", GROUPED | {"intermediate_size": 260, "num_hidden_layers": 1}),
    "mistral": ("mistral", GROUPED | {"head_dim": 24}),
    "mixtral": ("mixtral", GROUPED | {"num_local_experts": 4}),
}
OTHER_FAMILIES: Final[Mapping[str, Mapping[str, Any]]] = {
    "bert": SIZES,
    "bloom": {"hidden_size": 64, "n_layer": 2, "n_head": 4, "vocab_size": 101},
    "cohere": GROUPED,
    "falcon": {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 101},
    "gemma2": GROUPED | {"head_dim": 16},
    "gpt2": GPT,
    "gpt_bigcode": GPT,
    "gpt_neox": SIZES,
    "gptj": GPT | {"rotary_dim": 8},
    "granite": GROUPED,
    "mamba": {"hidden_size": 64, "num_hidden_layers": 2, "vocab_size": 101},
    "mpt": {"d_model": 64, "n_layers": 2, "n_heads": 4, "vocab_size": 101, "max_seq_len": 128},
    "olmo2": GROUPED,
    "opt": {key: value for key, value in SIZES.items() if key != "intermediate_size"}
    | {"ffn_dim": 172, "word_embed_proj_dim": 64},
    "phi": SIZES,
    "phi3": GROUPED,
    "qwen2": GROUPED,
    "qwen2_moe": GROUPED | EXPERTS | {"shared_expert_intermediate_size": 80},
    "qwen3": GROUPED | {"head_dim": 16},
    "qwen3_moe": GROUPED | EXPERTS | {"head_dim": 16},
    "stablelm": GROUPED,
    "starcoder2": GROUPED,
}
PACKINGS: Final[Mapping[str, Mapping[str, Any]]] = {
    "int8": {"load_in_8bit": True},
    "nf4": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
    "nf4-dq": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True},
    "fp4": {"load_in_4bit": True, "bnb_4bit_quant_type": "fp4"},
    "fp4-dq": {"load_in_4bit": True, "bnb_4bit_quant_type": "fp4", "bnb_4bit_use_double_quant": True},
}
FLOATS: Final = {"f32": "float32", "f16": "float16", "bf16": "bfloat16"}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Return what gives a directory of a seeded model as transformers saves it, made once."""
    made: dict[object, Path] = {}

    def save(model_type: str, config: Mapping[str, Any], dtype: str = "float16") -> Path:
        key = (model_type, json.dumps(config), dtype)
        if key not in made:
            model = _model_class(model_type).from_config(_config(model_type, config), dtype=dtype)
            directory = tmp_path_factory.mktemp(model_type)
            model.save_pretrained(directory)
            made[key] = directory
        return made[key]

    return save


def _config(model_type: str, config: Mapping[str, Any]) -> object:
    import torch
    import transformers

    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    torch.manual_seed(0)
    return transformers.AutoConfig.for_model(model_type, **config)


def _model_class(model_type: str) -> Any:  # noqa: ANN401 - transformers has no types
    import transformers

    return transformers.AutoModelForMaskedLM if model_type == "bert" else transformers.AutoModelForCausalLM


def _load(directory: Path, precision: str) -> Any:  # noqa: ANN401
    import transformers

    model_type = json.loads((directory / "config.json").read_text())["model_type"]
    if precision in FLOATS:
        return _model_class(model_type).from_pretrained(directory, dtype=FLOATS[precision])
    wanted = transformers.BitsAndBytesConfig(**PACKINGS[precision])
    return _model_class(model_type).from_pretrained(directory, quantization_config=wanted, device_map="cpu")


def _row(inspection: Inspection, precision: str) -> MemoryRow:
    assert inspection.memory is not None
    return next(row for row in inspection.memory.rows if row.precision == precision)


def _file_nbytes(directory: Path) -> tuple[dict[str, int], int]:
    """Add up the tensors of model.safetensors by the group of their names; and those that hold JSON apart."""
    raw = (directory / "model.safetensors").read_bytes()
    header = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])
    groups: Counter[str] = Counter()
    text = 0
    for name, tensor in header.items():
        if name == "__metadata__":
            continue
        first, last = tensor["data_offsets"]
        if ".quant_state." in name:
            text += last - first
        else:
            groups[group_of(name)] += last - first
    return dict(groups), text


def _assert_as_transformers_has_it(row: MemoryRow, model: Any, folder: Path) -> None:  # noqa: ANN401
    model.save_pretrained(folder)
    groups, text = _file_nbytes(folder)
    assert row.groups == groups
    assert row.nbytes == sum(groups.values())
    assert row.text_nbytes[0] <= text <= row.text_nbytes[1]
    assert row.parameters_nbytes == model.get_memory_footprint(return_buffers=False)


@pytest.mark.parametrize("precision", [*FLOATS, *PACKINGS])
@pytest.mark.parametrize("name", MODELS)
def test_every_precision_is_what_transformers_loads_and_saves(
    name: str, precision: str, saved: Callable[..., Path], tmp_path: Path
) -> None:
    directory = saved(*MODELS[name])
    inspection = convert.inspect(directory)
    model = _load(directory, precision)
    row = _row(inspection, precision)
    _assert_as_transformers_has_it(row, model, tmp_path)
    assert inspection.memory is not None
    assert inspection.memory.buffers_nbytes is not None
    assert row.parameters_nbytes is not None
    assert row.parameters_nbytes + inspection.memory.buffers_nbytes == model.get_memory_footprint()
    assert inspection.n_parameters == sum(parameter.numel() for parameter in _load(directory, "f16").parameters())


@pytest.mark.parametrize("precision", ["int8", "nf4", "nf4-dq"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_what_is_not_packed_stays_in_the_configs_type(
    dtype: str, precision: str, saved: Callable[..., Path], tmp_path: Path
) -> None:
    directory = saved("llama", GROUPED, dtype)
    inspection = convert.inspect(directory)
    _assert_as_transformers_has_it(_row(inspection, precision), _load(directory, precision), tmp_path)
    assert inspection.memory is not None
    assert inspection.memory.rest == {"bfloat16": "BF16", "float32": "F32"}[dtype]


@pytest.mark.parametrize("model_type", OTHER_FAMILIES)
def test_other_families_are_measured_too(model_type: str, saved: Callable[..., Path], tmp_path: Path) -> None:
    directory = saved(model_type, OTHER_FAMILIES[model_type])
    inspection = convert.inspect(directory)
    for precision in ("f16", "int8", "nf4-dq"):
        model = _load(directory, precision)
        _assert_as_transformers_has_it(_row(inspection, precision), model, tmp_path / precision)
    assert inspection.n_parameters == sum(parameter.numel() for parameter in _load(directory, "f16").parameters())


def test_families_said_to_be_compared_are_compared() -> None:
    assert {model_type for model_type, _ in MODELS.values()} | set(OTHER_FAMILIES) == COMPARED_MODELS


def test_double_quantization_leaves_only_the_digits_of_one_number_open(saved: Callable[..., Path]) -> None:
    inspection = convert.inspect(saved(*MODELS["llama"]))
    n_packed = 2 * 7
    fewest, most = _row(inspection, "nf4-dq").text_nbytes
    assert most - fewest == n_packed * (len(str(0.00012345678901234567)) - len("0.0"))
    assert len({_row(inspection, kind).text_nbytes for kind in ("nf4", "fp4")}) == 1
    assert _row(inspection, "nf4").text_nbytes[0] == _row(inspection, "nf4").text_nbytes[1]


@pytest.mark.parametrize("name", ["llama", "mixtral"])
@pytest.mark.parametrize("precision", PACKINGS)
def test_a_packed_checkpoint_has_the_table_of_the_plain_one(
    name: str, precision: str, saved: Callable[..., Path], tmp_path: Path
) -> None:
    plain = convert.inspect(saved(*MODELS[name]))
    _load(saved(*MODELS[name]), precision).save_pretrained(tmp_path)
    packed = convert.inspect(tmp_path)
    assert packed.packing is not None
    assert packed.n_parameters == plain.n_parameters
    assert packed.memory is not None
    assert plain.memory is not None
    assert packed.memory.groups == plain.memory.groups
    assert packed.memory.rows[1:] == plain.memory.rows[1:]
    assert _row(packed, "stored").groups == _row(packed, precision).groups
    assert _row(packed, "stored").nbytes == _row(packed, precision).nbytes


def test_a_packed_tensor_is_shown_with_what_it_decodes_to(saved: Callable[..., Path], tmp_path: Path) -> None:
    _load(saved(*MODELS["llama"]), "nf4-dq").save_pretrained(tmp_path)
    inspection = convert.inspect(tmp_path)
    name = "model.layers.1.mlp.down_proj.weight"
    decoded = next(tensor for tensor in inspection.decoded if tensor.name == name)
    parts = [tensor for tensor in inspection.tensors if tensor.part_of == name]
    assert (decoded.type, decoded.shape) == ("F16", (64, 172))
    assert sorted(tensor.name.removeprefix(name) for tensor in parts) == [
        "",
        ".absmax",
        ".nested_absmax",
        ".nested_quant_map",
        ".quant_map",
        ".quant_state.bitsandbytes__nf4",
    ]
    assert decoded.stored_nbytes == sum(tensor.nbytes for tensor in parts)
    assert len(inspection.decoded) == 2 * 7
    assert {tensor.name for tensor in inspection.tensors if "norm" in tensor.name and tensor.part_of} == set()
    shown = _run("inspect", tmp_path)
    line = next(line for line in shown.splitlines() if line.split()[:1] == [name])
    assert line.split()[1:] == ["5504", "x", "1", "U8", "5504", "F16", "64", "x", "172"]


def test_parts_under_other_names_are_shown_with_what_they_decode_to(tmp_path: Path) -> None:
    from group_packing import gptq_module, make_codes, packed_and_plain

    def pack(name: str, shape: tuple[int, int]) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        codes = make_codes(shape)
        return gptq_module(name, codes), codes.dequantized()

    quantization = {"quant_method": "gptq", "bits": 4, "group_size": 32, "desc_act": False, "sym": False}
    packed, plain = (convert.inspect(path) for path in packed_and_plain(tmp_path, quantization, pack))
    assert packed.n_parameters == plain.n_parameters
    assert packed.memory is not None
    assert plain.memory is not None
    assert packed.memory.rows[1:] == plain.memory.rows[1:]
    assert _row(packed, "stored").nbytes == sum(packed.stored.values())
    parts = {tensor.name: tensor.part_of for tensor in packed.tensors if ".q_proj." in tensor.name}
    module = "model.layers.0.self_attn.q_proj"
    assert parts == {f"{module}.{part}": f"{module}.weight" for part in ("g_idx", "qweight", "qzeros", "scales")}
    line = next(line for line in _run("inspect", tmp_path / "packed" / "model").splitlines() if f"{module}.qwe" in line)
    assert line.split()[-4:] == ["F16", "64", "x", "64"]


def test_gguf_rows_are_what_the_files_hold(tiny_llama: Path, tmp_path: Path) -> None:
    inspection = convert.inspect(tiny_llama)
    report = convert.convert_all(
        tiny_llama, convert.OutputRequest(tmp_path, types="f32,f16,bf16,q4_0,q4_1,q5_0,q5_1,q8_0", name="m")
    )
    for output in report.outputs:
        groups: Counter[str] = Counter()
        for tensor in convert.inspect(output.path).tensors:
            groups[gguf_group_of(tensor.name)] += tensor.nbytes
        row = _row(inspection, output.path.stem.removeprefix("m-"))
        assert dict(row.groups) == dict(groups)
        assert row.nbytes == sum(groups.values())


def test_a_model_that_gguf_does_not_know_is_measured_all_the_same(saved: Callable[..., Path], tmp_path: Path) -> None:
    config = json.loads((saved(*MODELS["llama"]) / "config.json").read_text())
    changed = config | {"architectures": ["SomethingForCausalLM"], "model_type": "something"}
    (tmp_path / "config.json").write_text(json.dumps(changed))
    (tmp_path / "model.safetensors").write_bytes((saved(*MODELS["llama"]) / "model.safetensors").read_bytes())
    inspection = convert.inspect(tmp_path)
    assert inspection.problem is not None
    assert inspection.problem.startswith("unsupported architecture `SomethingForCausalLM`: neither our definitions nor")
    assert inspection.memory is not None
    assert {row.format for row in inspection.memory.rows} == {"checkpoint", "transformers"}
    assert _row(inspection, "nf4") == _row(convert.inspect(saved(*MODELS["llama"])), "nf4")
    assert any("judged by names" in note for note in inspection.memory.notes)
    shown = _run("inspect", tmp_path, "--no-tensors")
    assert "as GGUF" not in shown
    assert "unsupported architecture `SomethingForCausalLM`" in shown


@pytest.mark.parametrize("text", ["{", "[]", '{"architectures": 3}', '{"architectures": [3], "dtype": 7}'])
def test_a_broken_config_is_told_and_the_weights_are_shown(
    text: str, saved: Callable[..., Path], tmp_path: Path
) -> None:
    (tmp_path / "model.safetensors").write_bytes((saved(*MODELS["llama"]) / "model.safetensors").read_bytes())
    (tmp_path / "config.json").write_text(text)
    inspection = convert.inspect(tmp_path)
    assert inspection.problem is not None
    assert "config.json" in inspection.problem
    assert inspection.architecture == "unknown"
    assert len(inspection.tensors) == 2 * 9 + 3


def test_a_packing_that_is_not_decoded_leaves_the_parameters_open(saved: Callable[..., Path], tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    config = json.loads((saved(*MODELS["llama"]) / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"quantization_config": {"quant_method": "no-such"}}))
    tensors = load_file(saved(*MODELS["llama"]) / "model.safetensors")
    codes = "model.layers.0.self_attn.q_proj.codes"
    tensors[codes] = tensors.pop("model.layers.0.self_attn.q_proj.weight").to(torch.int8)
    save_file(tensors, tmp_path / "model.safetensors")
    inspection = convert.inspect(tmp_path)
    assert inspection.n_parameters is None
    assert inspection.memory is None
    assert any("`no-such`, which this version does not decode" in note for note in inspection.notes)
    assert "no-such" in _run("inspect", tmp_path)


def test_tables_that_old_versions_saved_are_no_weights(saved: Callable[..., Path], tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    directory = saved(*MODELS["llama"])
    weights = load_file(directory / "model.safetensors")
    tables = {
        "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(8),
        "h.0.attn.bias": torch.ones(1, 1, 8, 8),
        "h.0.attn.masked_bias": torch.tensor(-1e4),
        "position_ids": torch.arange(8),
    }
    save_file(weights | tables, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_bytes((directory / "config.json").read_bytes())
    assert convert.inspect(tmp_path).n_parameters == convert.inspect(directory).n_parameters


def test_an_output_matrix_beside_tied_embeddings_is_told(saved: Callable[..., Path], tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    directory = saved(*MODELS["tied"])
    weights = load_file(directory / "model.safetensors")
    copy = {"lm_head.weight": weights["model.embed_tokens.weight"].clone()}
    save_file(weights | copy, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_bytes((directory / "config.json").read_bytes())
    memory = convert.inspect(tmp_path).memory
    assert memory is not None
    assert [note for note in memory.notes if "where both are equal, transformers keeps one" in note]
    assert [group.name for group in memory.groups][-1] == "output"
    alone = convert.inspect(directory).memory
    assert alone is not None
    assert alone.notes == ()


def test_the_commands_table_says_what_json_says(tiny_llama: Path) -> None:
    memory = json.loads(_run("inspect", tiny_llama, "--json"))["memory"]
    shown = _run("inspect", tiny_llama, "--no-tensors").splitlines()
    for row in memory["rows"]:
        lines = [line.split() for line in shown if line.split()[:1] == [row["precision"]]]
        assert any(str(row["nbytes"]) in line for line in lines), row["precision"]
        assert sum(row["groups"].values()) == row["nbytes"]
    assert [group["name"] for group in memory["groups"]] == ["embeddings", "attention", "feed-forward", "norms"]
    assert [row["precision"] for row in memory["rows"] if row["format"] == "transformers"] == [*FLOATS, *PACKINGS]


def _run(*arguments: object) -> str:
    command = [sys.executable, "-m", "convert", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout
