"""Broken, lying and contradictory bitsandbytes checkpoints: each its own error, before anything is written."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import pytest
from bitsandbytes_checkpoints import PackedAs, pack_4bit
from checkpoint_weights import make_weights, tensor_shapes
from packed_checkpoints import tiny_config, write_safetensors_checkpoint

import convert
from convert.errors import CheckpointError, ConfigError, ConvertError, PlanError, UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import torch

    Stored = dict[str, torch.Tensor]
    Change = Callable[[Stored], object]

MODULE: Final = "model.layers.0.self_attn.q_proj"
NAME: Final = f"{MODULE}.weight"  # 64 x 64 values in blocks of 64: 2048 bytes, 64 absmax values
STATE: Final = f"{NAME}.quant_state.bitsandbytes__nf4"
SECTION: Final[dict[str, Any]] = {"quant_method": "bitsandbytes"}


@dataclass(frozen=True, slots=True)
class Case:
    """What is changed in a good checkpoint, and what the error says."""

    name: str
    change: Change
    says: str
    section: dict[str, Any] = field(default_factory=dict)
    error: type[ConvertError] = CheckpointError


def _good(*, double: bool) -> Stored:
    weights = make_weights("hostile", tensor_shapes(tiny_config()), "float16")
    return {**weights, **pack_4bit(NAME, weights[NAME], PackedAs("nf4", double=double))}


def _good_int8() -> Stored:
    import torch
    from bitsandbytes.functional import int8_vectorwise_quant

    weights = make_weights("hostile", tensor_shapes(tiny_config()), "float16")
    packed, row_absmax, _ = int8_vectorwise_quant(weights[NAME])
    layout = torch.tensor(0, dtype=torch.uint8)
    return {**weights, NAME: packed, f"{MODULE}.SCB": row_absmax, f"{MODULE}.weight_format": layout}


# --- Changes


def _put(part: str, make: Callable[[torch.Tensor], torch.Tensor]) -> Change:
    """Replace the weight (part: empty) or one of its companions."""
    name = f"{NAME}.{part}" if part else NAME

    def change(stored: Stored) -> None:
        stored[name] = make(stored[name])

    return change


def _drop(*names: str) -> Change:
    return lambda stored: [stored.pop(name) for name in names]


def _raw_state(data: bytes) -> Change:
    import torch

    return lambda stored: stored.update({STATE: torch.tensor(list(data), dtype=torch.uint8)})


def _state(**changes: object) -> Change:
    """Change keys of the quant_state; one that becomes `...` is removed."""

    def change(stored: Stored) -> None:
        state = {**json.loads(stored[STATE].numpy().tobytes()), **changes}
        text = json.dumps({key: value for key, value in state.items() if value is not ...})
        _raw_state(text.encode())(stored)

    return change


def _rename(old: str, new: str) -> Change:
    return lambda stored: stored.update({new: stored.pop(old)})


def _int8_put(part: str, make: Callable[[torch.Tensor], torch.Tensor]) -> Change:
    def change(stored: Stored) -> None:
        stored[f"{MODULE}.{part}"] = make(stored[f"{MODULE}.{part}"])

    return change


def _set_code(index: int, value: float) -> Callable[[torch.Tensor], torch.Tensor]:
    def make(code: torch.Tensor) -> torch.Tensor:
        code = code.clone()
        code[index] = value
        return code

    return make


NESTED_KEYS: Final = {"nested_blocksize": ..., "nested_dtype": ..., "nested_offset": ...}
PARTS: Final = ("absmax", "quant_map", "nested_absmax", "nested_quant_map")
COMPANIONS: Final = (*(f"{NAME}.{part}" for part in PARTS), STATE)

FOUR_BIT: Final = (
    # Packed bytes
    Case("truncated pack", _put("", lambda t: t[:-1]), "`[64, 64]` takes `2048`"),
    Case("pack one byte too long", _put("", lambda t: t.new_zeros(2049, 1)), "has 2049 packed bytes"),
    Case("no pack at all", _put("", lambda t: t[:0]), "has 0 packed bytes"),
    Case("pack as integers", _put("", lambda t: t.new_zeros(512, 1).int()), f"`{NAME}` is I32, packed 4-bit weights"),
    Case("pack transposed", _put("", lambda t: t.reshape(1, -1)), r"has shape (1, 2048), packed 4-bit weights have"),
    Case("pack in the model's shape", _put("", lambda t: t.reshape(64, 32)), "has shape (64, 32), packed"),
    Case("weight without companions", _drop(*COMPANIONS), f"`{NAME}` is U8 of shape (2048, 1), packed, but"),
    Case(
        "weight stored as floats without companions",
        lambda stored: (
            _drop(*COMPANIONS)(stored),
            _put("", lambda t: t.reshape(-1, 2).view(t.new_empty(0).half().dtype))(stored),
        ),
        f"`{NAME}` is F16 of shape (1024, 1), packed, but",
        {"bnb_4bit_quant_storage": "float16"},
    ),
    Case("companions without weight", _drop(NAME), f"lacks tensor `{NAME}`, but has `{NAME}.absmax`"),
    # Companions
    Case("no absmax", _drop(f"{NAME}.absmax"), f"lacks tensor `{NAME}.absmax`, which `{STATE}` needs"),
    Case("no code", _drop(f"{NAME}.quant_map"), f"lacks tensor `{NAME}.quant_map`"),
    Case("no quant_state", _drop(STATE), f"but no `{NAME}.quant_state.bitsandbytes__nf4` or `…fp4`"),
    Case("absmax alone", _drop(f"{NAME}.quant_map", STATE), f"`{NAME}.absmax`"),
    Case("no nested absmax", _drop(f"{NAME}.nested_absmax"), f"lacks tensor `{NAME}.nested_absmax`"),
    Case("no nested code", _drop(f"{NAME}.nested_quant_map"), f"lacks tensor `{NAME}.nested_quant_map`"),
    Case(
        "nested tensors, plain state", _state(**NESTED_KEYS), f"`{NAME}.nested_absmax` is there, but `{STATE}` is not"
    ),
    Case("absmax too short", _put("absmax", lambda t: t[:-1]), "has shape (63,), its quant_state asks for (64,)"),
    Case("absmax too long", _put("absmax", lambda t: t.new_zeros(65)), "has shape (65,), its quant_state asks"),
    Case("absmax as a column", _put("absmax", lambda t: t.reshape(-1, 1)), "has shape (64, 1), its quant_state asks"),
    Case("nested absmax of floats", _put("absmax", lambda t: t.float()), f"`{NAME}.absmax` is F32, wanted U8"),
    Case("nested_absmax too long", _put("nested_absmax", lambda t: t.new_zeros(2)), "has shape (2,), its quant_state"),
    Case("nested_absmax in half", _put("nested_absmax", lambda t: t.half()), "nested_absmax` is F16, wanted F32"),
    Case("code of 15", _put("quant_map", lambda t: t[:15]), "has shape (15,), its quant_state asks for (16,)"),
    Case("code in half", _put("quant_map", lambda t: t.half()), "quant_map` is F16, wanted F32"),
    Case("code with NaN", _put("quant_map", _set_code(3, float("nan"))), "quant_map` holds NaN or infinity"),
    Case("nested code of 16", _put("nested_quant_map", lambda t: t[:16]), "has shape (16,), its quant_state asks for"),
    Case("nested code with inf", _put("nested_quant_map", _set_code(9, float("inf"))), "nested_quant_map` holds NaN"),
    Case(
        "companion that is packed itself",
        lambda stored: stored.update(pack_4bit(f"{NAME}.absmax", stored[f"{NAME}.absmax"].half(), PackedAs("nf4"))),
        f"`{NAME}.absmax` is a companion of",
    ),
    Case("two states", lambda stored: stored.update({f"{NAME}.quant_state.x": stored[STATE]}), "has several states"),
    # The quant_state
    Case("state is not JSON", _raw_state(b"quant_type: nf4"), f"`{STATE}` is not JSON"),
    Case("state is not UTF-8", _raw_state(b"\xff\xfe{}"), f"`{STATE}` is not UTF-8"),
    Case("state is empty", _raw_state(b""), f"`{STATE}` is not JSON"),
    Case("state is cut", _put("quant_state.bitsandbytes__nf4", lambda t: t[:-9]), f"`{STATE}` is not JSON"),
    Case("state is a list", _raw_state(b"[1, 2]"), "holds `[1, 2]`, wanted a JSON object"),
    Case("state is deep", _raw_state(b"[" * 2000 + b"]" * 2000), "nested too deep"),
    Case("state is long", _raw_state(b" " * 5000), "is 5000 bytes of U8, wanted JSON as at most 4096"),
    Case("state is floats", _put("quant_state.bitsandbytes__nf4", lambda t: t.float()), "of F32, wanted JSON"),
    Case("state with a key twice", _raw_state(b'{"dtype": 1, "dtype": 2}'), "has the key `dtype` twice"),
    Case("state lacks shape", _state(shape=...), "lacks the key `shape`"),
    Case("state lacks an offset", _state(nested_offset=...), "lacks the key `nested_offset`"),
    Case("state with a strange key", _state(packing_format_for_cpu=True), "has the key `packing_format_for_cpu`"),
    Case("state of another type", _state(quant_type="fp4"), "is named after nf4, its `quant_type` says `fp4`"),
    Case("state's type is a list", _state(quant_type=["nf4"]), "its `quant_type` says `['nf4']`"),
    Case("name of another type", _rename(STATE, STATE.replace("nf4", "fp4")), "is named after fp4, its"),
    Case("name of no type", _rename(STATE, STATE.replace("nf4", "int4")), "is named after `int4`, wanted nf4 or fp4"),
    Case("shape is smaller", _state(shape=[64, 32]), "has 2048 packed bytes, its quant_state's shape `[64, 32]` takes"),
    Case("shape is huge", _state(shape=[2**62, 2**62]), "takes `10633823966279326983230456482242756608`"),
    Case("shape is negative", _state(shape=[-64, -64]), "the `shape` `[-64, -64]`, wanted a list of positive"),
    Case("shape has a zero", _state(shape=[0, 64]), "the `shape` `[0, 64]`, wanted"),
    Case("shape is no list", _state(shape=4096), "the `shape` `4096`, wanted"),
    Case("shape is empty", _state(shape=[]), "the `shape` `[]`, wanted"),
    Case("shape is null", _state(shape=None), "the `shape` `None`, wanted"),
    Case("shape of floats", _state(shape=[64.0, 64]), "the `shape` `[64.0, 64]`, wanted"),
    Case("shape of booleans", _state(shape=[True, 4096]), "the `shape` `[True, 4096]`, wanted"),
    Case(
        "shape of as many values",
        _state(shape=[32, 128]),
        "has shape (32, 128), config.json says (64, 64)",
        {},
        PlanError,
    ),
    Case("blocksize is 0", _state(blocksize=0), "the `blocksize` `0`, wanted one of 32, 64"),
    Case("blocksize is negative", _state(blocksize=-64), "the `blocksize` `-64`, wanted"),
    Case("blocksize is huge", _state(blocksize=2**63), "the `blocksize` `9223372036854775808`, wanted"),
    Case("blocksize is a float", _state(blocksize=64.0), "the `blocksize` `64.0`, wanted"),
    Case("blocksize is text", _state(blocksize="64"), "the `blocksize` `64`, wanted"),
    Case("blocksize is a list", _state(blocksize=[64]), "the `blocksize` `[64]`, wanted"),
    Case("blocksize is another", _state(blocksize=128), "has shape (64,), its quant_state asks for (32,)"),
    Case("nested blocksize is 0", _state(nested_blocksize=0), "the `nested_blocksize` `0`, wanted"),
    Case("nested blocksize is another", _state(nested_blocksize=32), "has shape (1,), its quant_state asks for (2,)"),
    Case("dtype is unknown", _state(dtype="float64"), "the `dtype` `float64`, wanted float32 or float16 or bfloat16"),
    Case("dtype is an object", _state(dtype={}), "the `dtype` `{}`, wanted"),
    Case("nested dtype is another", _state(nested_dtype="float16"), "the `nested_dtype` `float16`, wanted float32"),
    Case("offset is text", _state(nested_offset="0.05"), "the `nested_offset` `0.05`, wanted a float32"),
    Case("offset is true", _state(nested_offset=True), "the `nested_offset` `True`, wanted"),
    Case("offset is huge", _state(nested_offset=1e39), "the `nested_offset` `1e+39`, wanted"),
    Case("offset is a huge integer", _state(nested_offset=10**60), "the `nested_offset` `1000000"),
    Case("offset is NaN", _state(nested_offset=float("nan")), "holds the number `NaN`"),
    # The config
    Case("config says fp4", _state(), "`bnb_4bit_quant_type` is `fp4`, tensor", {"bnb_4bit_quant_type": "fp4"}),
    Case("config says 8 bits", _state(), "the number of bits is `8`, tensor", {"load_in_8bit": True}),
    Case("config says plain statistics", _state(), "is `False`, tensor", {"bnb_4bit_use_double_quant": False}),
    Case("config says another storage", _state(), "is `bfloat16`, tensor", {"bnb_4bit_quant_storage": "bfloat16"}),
    Case(
        "config says both",
        _state(),
        "declares 4-bit and 8-bit weights",
        {"load_in_4bit": True, "_load_in_8bit": True},
        ConfigError,
    ),
    Case("config's flag is text", _state(), "`load_in_4bit` in", {"load_in_4bit": "yes"}, ConfigError),
    Case("config's type is a number", _state(), "is 4, wanted a string", {"bnb_4bit_quant_type": 4}, ConfigError),
    Case("config's storage is unknown", _state(), "wanted one of uint8", {"bnb_4bit_quant_storage": "x"}, ConfigError),
    Case("config says GPTQ", _state(), "declares `gptq`, but", {"quant_method": "gptq", "bits": 4}),
)

EIGHT_BIT: Final = (
    Case("rows are missing", _int8_put("weight", lambda t: t[:-1]), "has shape (64,), the 63 rows of"),
    Case("SCB too short", _int8_put("SCB", lambda t: t[:-1]), f"`{MODULE}.SCB` has shape (63,), the 64 rows of"),
    Case("SCB in half", _int8_put("SCB", lambda t: t.half()), f"`{MODULE}.SCB` is F16, wanted F32"),
    Case("SCB as a row", _int8_put("SCB", lambda t: t.reshape(1, -1)), "has shape (1, 64), the 64 rows of"),
    Case("no SCB", _drop(f"{MODULE}.SCB"), f"lacks tensor `{MODULE}.SCB`, but has `{MODULE}.weight_format`"),
    Case("no companions", _drop(f"{MODULE}.SCB", f"{MODULE}.weight_format"), "is I8 of shape (64, 64), packed, but"),
    Case("no weight", _drop(NAME), f"lacks tensor `{NAME}`, but has `{MODULE}.SCB`"),
    Case("weight is float", _int8_put("weight", lambda t: t.half()), f"`{NAME}` is F16 of shape (64, 64), "),
    Case("weight is flat", _int8_put("weight", lambda t: t.reshape(-1)), f"`{NAME}` is I8 of shape (4096,), "),
    Case("col32", _int8_put("weight_format", lambda t: t + 1), "laid out as `col32`", {}, UnsupportedError),
    Case("col_turing", _int8_put("weight_format", lambda t: t + 2), "laid out as `col_turing`", {}, UnsupportedError),
    Case("col_ampere", _int8_put("weight_format", lambda t: t + 3), "laid out as `col_ampere`", {}, UnsupportedError),
    Case("unknown layout", _int8_put("weight_format", lambda t: t + 4), "is 4, wanted 0 (row) to 3 (col_ampere)"),
    Case("layout of floats", _int8_put("weight_format", lambda t: t.float()), "is F32 of shape (), wanted one U8"),
    Case("several layouts", _int8_put("weight_format", lambda t: t.new_zeros(2)), "is U8 of shape (2,), wanted one U8"),
    Case(
        "config says 4 bits", _int8_put("SCB", lambda t: t), "the number of bits is `4`, tensor", {"load_in_4bit": True}
    ),
)


def _refused(case: Case, stored: Stored, section: dict[str, Any], tmp_path: Path) -> None:
    case.change(stored)
    config = tiny_config(quantization_config={**section, **case.section})
    directory = write_safetensors_checkpoint(tmp_path / "model", config, stored)
    with pytest.raises(case.error) as caught:
        convert.convert_all(directory, tmp_path / "out")
    assert case.says in caught.value.message
    assert type(caught.value) is case.error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("case", FOUR_BIT, ids=lambda case: case.name)
def test_a_broken_4_bit_checkpoint_is_refused_before_any_output(case: Case, tmp_path: Path) -> None:
    _refused(case, _good(double=True), SECTION, tmp_path)


@pytest.mark.parametrize("case", EIGHT_BIT, ids=lambda case: case.name)
def test_a_broken_8_bit_checkpoint_is_refused_before_any_output(case: Case, tmp_path: Path) -> None:
    _refused(case, _good_int8(), SECTION, tmp_path)


PLAIN_STATISTICS: Final = (
    Case("absmax of integers", _put("absmax", lambda t: t.int()), "is I32, wanted F32 or F16 or BF16"),
    Case("absmax of doubles", _put("absmax", lambda t: t.double()), "is F64, wanted F32 or F16 or BF16"),
    Case("absmax of bytes", _put("absmax", lambda t: t.byte()), "is U8, wanted F32 or F16 or BF16"),
    Case("config says nested ones", _state(), "is `True`, tensor", {"bnb_4bit_use_double_quant": True}),
)


@pytest.mark.parametrize("case", PLAIN_STATISTICS, ids=lambda case: case.name)
def test_broken_statistics_are_refused_before_any_output(case: Case, tmp_path: Path) -> None:
    _refused(case, _good(double=False), SECTION, tmp_path)


@pytest.mark.parametrize("good", [lambda: _good(double=True), lambda: _good(double=False), _good_int8])
def test_the_checkpoint_that_the_others_are_made_from_converts(good: Callable[[], Stored], tmp_path: Path) -> None:
    directory = write_safetensors_checkpoint(tmp_path / "model", tiny_config(quantization_config=SECTION), good())
    assert len(convert.convert_all(directory, convert.OutputRequest(tmp_path / "out", types="f16,q8_0")).outputs) == 2


def test_packed_tensors_without_a_section_are_an_error_that_shows_both(tmp_path: Path) -> None:
    directory = write_safetensors_checkpoint(tmp_path / "model", tiny_config(), _good(double=True))
    with pytest.raises(CheckpointError, match=r"declares no quantization, but `.*` is bitsandbytes's"):
        convert.plan_all(directory, tmp_path / "out")


def test_an_infinite_absmax_names_the_tensor_and_leaves_nothing(tmp_path: Path) -> None:
    stored = _good(double=False)
    stored[f"{NAME}.absmax"][5] = float("inf")
    directory = write_safetensors_checkpoint(tmp_path / "model", tiny_config(quantization_config=SECTION), stored)
    with pytest.raises(CheckpointError, match=rf"`{NAME}` has 64 values NaN or infinite"):
        convert.convert_all(directory, tmp_path / "out")
    assert not (tmp_path / "out").exists()
