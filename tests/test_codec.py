"""Codecs: every kernel level gives the NumPy reference's bytes; conversions, bad values and buffers are as promised."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
import pytest
from codec_cases import BLOCK32_TYPES, CASES, QUANTIZED_TYPES, WEIGHTED_TYPES, draw, draw_importance
from gguf import GGMLQuantizationType, quants

from convert.codec import (
    CODECS,
    FLOAT_TYPES,
    BadValues,
    Importance,
    available_levels,
    compiled,
    encode_rows,
    encode_rows_allowing_nonfinite,
    row_nbytes,
)
from convert.errors import ShapeError, UnsupportedError

if TYPE_CHECKING:
    from numpy.typing import NDArray

F32, F16, BF16 = FLOAT_TYPES
Q4_0, Q4_1, Q6_K = GGMLQuantizationType.Q4_0, GGMLQuantizationType.Q4_1, GGMLQuantizationType.Q6_K
NAN_TYPES: Final = tuple(kind for kind in QUANTIZED_TYPES if CODECS[kind].scale_offsets)
ALL_HALVES: Final = np.arange(1 << 16, dtype=np.uint16)


def encode(
    source: NDArray[np.uint8],
    source_type: GGMLQuantizationType,
    target: GGMLQuantizationType,
    n_cols: int,
    *,
    through_f16: bool = False,
) -> NDArray[np.uint8]:
    n_rows = source.size // row_nbytes(source_type, n_cols)
    out = np.full(n_rows * row_nbytes(target, n_cols), 0xAA, np.uint8)
    encode_rows(source, source_type, n_cols=n_cols, through_f16=through_f16, targets=[(target, out)])
    return out


def bytes_of(rows: NDArray[np.float32], source_type: GGMLQuantizationType) -> NDArray[np.uint8]:
    return CODECS[source_type].encode(rows).reshape(-1)


@pytest.fixture(params=available_levels())
def level(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Every instruction-set level this machine has, and NumPy, one after the other."""
    monkeypatch.setenv(compiled.LEVEL_VARIABLE, request.param)
    return str(request.param)


@pytest.mark.parametrize("tensor_type", QUANTIZED_TYPES, ids=lambda kind: kind.name)
@pytest.mark.parametrize("case", CASES)
def test_every_level_gives_the_bytes_of_the_reference(
    case: str, tensor_type: GGMLQuantizationType, monkeypatch: pytest.MonkeyPatch
) -> None:
    for n_rows, n_cols in ((3, 32), (2, 64), (5, 96), (4, 256), (2, 4096 + 256), (1, 5632)):
        if n_cols % CODECS[tensor_type].block_size:
            continue
        rows = draw(case, n_rows, n_cols)
        for source_type in FLOAT_TYPES:
            source = bytes_of(rows, source_type)
            stored = CODECS[source_type].decode(source.reshape(n_rows, -1))
            if not np.isfinite(stored).all():
                continue  # float16 cannot hold this case
            expected = CODECS[tensor_type].encode(stored).reshape(-1)
            for level in available_levels():
                monkeypatch.setenv(compiled.LEVEL_VARIABLE, level)
                assert np.array_equal(encode(source, source_type, tensor_type, n_cols), expected), (level, n_cols)


@pytest.mark.parametrize("tensor_type", WEIGHTED_TYPES, ids=lambda kind: kind.name)
def test_every_level_takes_importance_for_rows_of_any_length(
    tensor_type: GGMLQuantizationType, monkeypatch: pytest.MonkeyPatch
) -> None:
    for n_rows, n_cols in ((40, 32), (33, 96), (70, 256), (3, 4096 + 256), (2, 5632)):
        if n_cols % CODECS[tensor_type].block_size:
            continue
        source = bytes_of(draw("weights", n_rows, n_cols), F32)
        importance = Importance(draw_importance("sums of squares", n_rows, n_cols), 1)
        for through_f16 in (False, True):
            out: dict[str, NDArray[np.uint8]] = {}
            for level in available_levels():
                monkeypatch.setenv(compiled.LEVEL_VARIABLE, level)
                out[level] = np.zeros(n_rows * row_nbytes(tensor_type, n_cols), np.uint8)
                targets = [(tensor_type, out[level])]
                encode_rows(source, F32, n_cols=n_cols, through_f16=through_f16, targets=targets, importance=importance)
            wrong = [level for level, encoded in out.items() if not np.array_equal(encoded, out["numpy"])]
            assert not wrong, (n_rows, n_cols, through_f16)


@pytest.mark.parametrize("tensor_type", QUANTIZED_TYPES, ids=lambda kind: kind.name)
@pytest.mark.parametrize("source_type", [F32, BF16], ids=lambda kind: kind.name)
@pytest.mark.usefixtures("level")
def test_weights_go_through_float16_when_asked(
    source_type: GGMLQuantizationType, tensor_type: GGMLQuantizationType
) -> None:
    source = bytes_of(draw("normal", 4, 4096 + 256) * np.float32(1e-4), source_type)
    stored = CODECS[source_type].decode(source.reshape(4, -1))
    rounded = stored.astype(np.float16).astype(np.float32)
    assert not np.array_equal(rounded, stored)
    expected = CODECS[tensor_type].encode(rounded).reshape(-1)
    assert np.array_equal(encode(source, source_type, tensor_type, 4096 + 256, through_f16=True), expected)


@pytest.mark.usefixtures("level")
def test_one_pass_makes_every_target_at_once() -> None:
    rows, importance = draw("normal", 3, 5632), draw_importance("sums of squares", 1, 5632)
    source = bytes_of(rows, F32)
    targets = [(kind, np.full(3 * row_nbytes(kind, 5632), 0xAA, np.uint8)) for kind in CODECS]
    weights = Importance(importance, 3)
    bad = encode_rows(source, F32, n_cols=5632, through_f16=True, targets=targets, importance=weights)
    assert bad == BadValues(0, 0)
    for kind, out in targets:
        values = rows if kind in FLOAT_TYPES else rows.astype(np.float16).astype(np.float32)
        assert np.array_equal(out, CODECS[kind].encode(values, importance[0]).reshape(-1)), kind.name


@pytest.mark.usefixtures("level")
def test_buffers_may_lie_at_odd_addresses_and_nothing_is_written_beyond_them() -> None:
    rows = draw("normal", 1, 4096 + 32)
    source = np.zeros(rows.size * 4 + 1, np.uint8)[1:]
    source[:] = bytes_of(rows, F32)
    for kind in (*BLOCK32_TYPES, *FLOAT_TYPES):
        room = np.full(row_nbytes(kind, rows.size) + 65, 0xAA, np.uint8)
        encode_rows(source, F32, n_cols=rows.size, through_f16=False, targets=[(kind, room[1:-64])])
        assert np.array_equal(room[1:-64], CODECS[kind].encode(rows).reshape(-1)), kind.name
        assert room[0] == 0xAA, kind.name
        assert (room[-64:] == 0xAA).all(), kind.name


@pytest.mark.parametrize("source_type", FLOAT_TYPES, ids=lambda kind: kind.name)
@pytest.mark.parametrize("target", FLOAT_TYPES, ids=lambda kind: kind.name)
@pytest.mark.parametrize("n_cols", [1, 3, 17, 4099])
@pytest.mark.usefixtures("level")
def test_float_rows_of_any_length_are_converted(
    n_cols: int, target: GGMLQuantizationType, source_type: GGMLQuantizationType
) -> None:
    source = bytes_of(draw("normal", 3, 4128)[:, :n_cols], source_type)
    stored = CODECS[source_type].decode(source.reshape(3, -1))
    assert np.array_equal(encode(source, source_type, target, n_cols), CODECS[target].encode(stored).reshape(-1))


@pytest.mark.parametrize("source_type", [F16, BF16], ids=lambda kind: kind.name)
@pytest.mark.parametrize("target", FLOAT_TYPES, ids=lambda kind: kind.name)
@pytest.mark.usefixtures("level")
def test_every_16_bit_pattern_is_converted(target: GGMLQuantizationType, source_type: GGMLQuantizationType) -> None:
    source = ALL_HALVES.view(np.uint8)
    values = CODECS[source_type].decode(source.reshape(1, -1))
    got = encode(source, source_type, target, 256)
    with np.errstate(over="ignore"):
        expected = {
            F32: values.reshape(-1),
            F16: values.reshape(-1).astype(np.float16),
            BF16: quants.quantize(values, BF16).reshape(-1).view(np.uint16),
        }[target]
    if target is BF16:
        values_of_got = CODECS[BF16].decode(got.reshape(1, -1))
        is_number = ~np.isnan(values.reshape(-1))
        assert np.array_equal(got.view(np.uint16)[is_number], expected[is_number])
        assert np.isnan(values_of_got.reshape(-1)[~is_number]).all()
    else:
        numbers = got.view(expected.dtype)
        assert np.array_equal(numbers, expected, equal_nan=True)
        assert np.array_equal(np.signbit(numbers), np.signbit(expected))


@pytest.mark.usefixtures("level")
def test_float16_source_reaches_float16_target_bit_for_bit() -> None:
    source = ALL_HALVES.view(np.uint8)
    assert np.array_equal(encode(source, F16, F16, 256), source)


@pytest.mark.usefixtures("level")
def test_float32_to_float16_rounds_ties_to_even_at_every_boundary() -> None:
    halves = ALL_HALVES[:0x7C00].view(np.float16).astype(np.float32)
    middles = (halves[:-1] + halves[1:]) / 2
    around = np.concatenate([halves, middles, np.nextafter(middles, 0), np.nextafter(middles, np.float32(np.inf))])
    edge = np.array([65519.996, 65520, 65504, 1e-8, 2**-25, 2**-24], np.float32)
    values = np.concatenate([around, -around, edge, -edge])
    with np.errstate(over="ignore"):
        expected = values.astype(np.float16)
    got = encode(values.view(np.uint8), F32, F16, values.size)
    assert np.array_equal(got.view(np.uint16), expected.view(np.uint16))


@pytest.mark.usefixtures("level")
def test_float32_to_bfloat16_rounds_ties_to_even_and_keeps_nan() -> None:
    highs = np.arange(1 << 16, dtype=np.uint32) << 16
    patterns = np.concatenate([highs | low for low in (0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF)])
    expected = quants.quantize(patterns.view(np.float32).reshape(1, -1), BF16).reshape(-1)
    assert np.array_equal(encode(patterns.view(np.uint8), F32, BF16, patterns.size), expected)


@pytest.mark.parametrize(
    ("source_type", "target", "through_f16", "expected"),
    [
        (F32, F32, False, BadValues(3, 0)),
        (F32, F16, False, BadValues(3, 2)),
        (F32, Q4_0, False, BadValues(3, 0)),
        (F32, Q4_0, True, BadValues(3, 2)),
        (BF16, F16, False, BadValues(3, 2)),
        (BF16, Q6_K, True, BadValues(3, 2)),
        (F16, F16, True, BadValues(5, 0)),
    ],
)
@pytest.mark.usefixtures("level")
def test_bad_values_are_counted(
    source_type: GGMLQuantizationType, target: GGMLQuantizationType, *, through_f16: bool, expected: BadValues
) -> None:
    rows = draw("normal", 2, 4096 + 256)
    rows[0, [0, 70, 4100]] = np.nan, np.inf, -np.inf
    rows[1, [5, 4351]] = 1e6, -70000
    out = np.zeros(2 * row_nbytes(target, 4352), np.uint8)
    source = bytes_of(rows, source_type)
    assert expected == encode_rows(source, source_type, n_cols=4352, through_f16=through_f16, targets=[(target, out)])


def test_overflow_begins_where_rounding_reaches_infinity(level: str) -> None:
    values = np.array([65504, 65519.996, 65520, -65520], np.float32)
    out = np.zeros(8, np.uint8)
    bad = encode_rows(values.view(np.uint8), F32, n_cols=4, through_f16=False, targets=[(F16, out)])
    assert bad == BadValues(0, 2), level


@pytest.mark.parametrize("tensor_type", NAN_TYPES, ids=lambda kind: kind.name)
@pytest.mark.usefixtures("level")
def test_a_block_with_a_nonfinite_value_decodes_to_nan_and_others_as_usual(tensor_type: GGMLQuantizationType) -> None:
    codec = CODECS[tensor_type]
    rows = draw("normal", 4, 1024)
    clean = codec.encode(rows.astype(np.float16).astype(np.float32)).reshape(-1, codec.type_size)
    rows[1, 700], rows[2, 3], rows[3, 1000] = np.nan, -np.inf, 1e6  # the last overflows float16
    out = np.zeros(4 * row_nbytes(tensor_type, 1024), np.uint8)
    bad = encode_rows_allowing_nonfinite(
        bytes_of(rows, F32), F32, n_cols=1024, through_f16=True, targets=[(tensor_type, out)]
    )
    poisoned = np.zeros(rows.size // codec.block_size, bool)
    poisoned[[place // codec.block_size for place in (1024 + 700, 2048 + 3, 3072 + 1000)]] = True
    blocks = out.reshape(-1, codec.type_size)
    assert bad == BadValues(2, 1)
    assert np.isnan(codec.decode(blocks[poisoned])).all()
    assert np.array_equal(blocks[~poisoned], clean[~poisoned])


@pytest.mark.parametrize("tensor_type", ["MXFP4", "NVFP4", "IQ1_M"])
@pytest.mark.usefixtures("level")
def test_a_type_that_has_no_nan_is_an_error_for_a_nonfinite_value(tensor_type: str) -> None:
    kind = GGMLQuantizationType[tensor_type]
    targets = [(kind, np.zeros(row_nbytes(kind, 256), np.uint8))]
    rows = draw("normal", 1, 256)
    encode_rows_allowing_nonfinite(bytes_of(rows, F32), F32, n_cols=256, through_f16=True, targets=targets)
    rows[0, 3] = np.nan
    with pytest.raises(UnsupportedError, match=f"{tensor_type} has no scale that is NaN, as 1 block needs one"):
        encode_rows_allowing_nonfinite(bytes_of(rows, F32), F32, n_cols=256, through_f16=True, targets=targets)


def test_float_targets_keep_what_is_not_finite(level: str) -> None:
    rows = np.array([[np.nan, np.inf, -np.inf, 1e6, 1.5]], np.float32)
    targets = [(kind, np.zeros(row_nbytes(kind, 5), np.uint8)) for kind in FLOAT_TYPES]
    encode_rows_allowing_nonfinite(rows.view(np.uint8).reshape(-1), F32, n_cols=5, through_f16=True, targets=targets)
    decoded = [CODECS[kind].decode(out.reshape(1, -1)) for kind, out in targets]
    assert np.array_equal(decoded[0], rows, equal_nan=True), level
    assert np.array_equal(decoded[1], [[np.nan, np.inf, -np.inf, np.inf, 1.5]], equal_nan=True), level
    assert np.array_equal(decoded[2], [[np.nan, np.inf, -np.inf, 999424, 1.5]], equal_nan=True), level


@pytest.mark.parametrize("tensor_type", QUANTIZED_TYPES, ids=lambda kind: kind.name)
@pytest.mark.usefixtures("level")
def test_nonfinite_input_crashes_nothing(tensor_type: GGMLQuantizationType) -> None:
    patterns = np.random.default_rng(3).integers(0, 1 << 32, 1 << 14, dtype=np.uint32)
    patterns[::5] |= 0x7F800000
    encode(patterns.view(np.uint8), F32, tensor_type, 256, through_f16=True)


@pytest.mark.parametrize(
    "tensor_type", [kind for kind in BLOCK32_TYPES if kind.name != "IQ4_NL"], ids=lambda kind: kind.name
)
def test_on_ordinary_weights_the_reference_is_the_gguf_package(tensor_type: GGMLQuantizationType) -> None:
    rows = draw("normal", 8, 4096)
    assert np.array_equal(CODECS[tensor_type].encode(rows), quants.quantize(rows, tensor_type))


@pytest.mark.parametrize(
    ("tensor_type", "bound"),
    [
        *[("Q4_0", 0.08), ("Q4_1", 0.08), ("Q5_0", 0.04), ("Q5_1", 0.04), ("Q8_0", 0.006)],
        *[("Q2_K", 0.3), ("Q3_K", 0.16), ("Q4_K", 0.08), ("Q5_K", 0.04), ("Q6_K", 0.02)],
    ],
)
def test_round_trip_error_is_what_the_bits_allow(tensor_type: str, bound: float) -> None:
    codec, rows = CODECS[GGMLQuantizationType[tensor_type]], draw("normal", 8, 4096)
    error = codec.decode(codec.encode(rows)) - rows
    relative = np.sqrt(np.square(error).mean() / np.square(rows).mean())
    assert bound / 4 < relative < 1.3 * bound


def test_row_nbytes_follows_the_block_layout() -> None:
    sizes = {"F32": 2048, "F16": 1024, "BF16": 1024, "Q4_0": 288, "Q5_1": 384, "Q8_0": 544, "Q6_K": 420}
    assert sizes == {name: row_nbytes(GGMLQuantizationType[name], 512) for name in sizes}


def test_row_nbytes_refuses_part_of_a_block() -> None:
    with pytest.raises(ShapeError, match=r"48 columns, Q4_0 needs a multiple of 32"):
        row_nbytes(Q4_0, 48)


def test_a_type_without_a_codec_is_not_encoded() -> None:
    rows, out = np.zeros(1024, np.uint8), np.zeros(292, np.uint8)
    with pytest.raises(UnsupportedError, match="Q8_K"):
        encode_rows(rows, F32, n_cols=256, through_f16=False, targets=[(GGMLQuantizationType.Q8_K, out)])
    assert row_nbytes(GGMLQuantizationType.Q8_K, 512) == 584


@pytest.mark.parametrize(
    ("columns", "rows_each"),
    [
        (np.ones((1, 64), np.float32), 1),
        (np.ones((2, 32), np.float32), 1),
        (np.ones((1, 32), np.float64), 2),
        (np.ones(32, np.float32), 2),
    ],
    ids=["other columns", "too few experts", "float64", "one dimension"],
)
def test_importance_that_does_not_fit_is_refused(columns: NDArray[np.float32], rows_each: int) -> None:
    source, out = np.zeros(3 * 32 * 4, np.uint8), np.zeros(3 * 18, np.uint8)
    with pytest.raises(ShapeError, match="importance is"):
        encode_rows(
            source,
            F32,
            n_cols=32,
            through_f16=False,
            targets=[(Q4_0, out)],
            importance=Importance(columns, rows_each),
        )


@pytest.mark.parametrize(
    ("source", "out"),
    [
        (np.zeros(4 * 64, np.uint8), np.zeros(35, np.uint8)),
        (np.zeros(4 * 64 + 1, np.uint8), np.zeros(36, np.uint8)),
        (np.zeros((4, 64), np.uint8), np.zeros(36, np.uint8)),
        (np.zeros(8 * 64, np.uint8)[::2], np.zeros(36, np.uint8)),
        (np.zeros(4 * 64, np.uint8), np.frombuffer(bytes(36), np.uint8)),
        (np.zeros(4 * 64, np.int8), np.zeros(36, np.uint8)),
    ],
    ids=["short output", "part of a row", "two dimensions", "strided", "read-only output", "signed"],
)
def test_buffers_that_do_not_fit_are_refused(source: NDArray[np.uint8], out: NDArray[np.uint8]) -> None:
    with pytest.raises(ShapeError):
        encode_rows(source, F32, n_cols=64, through_f16=False, targets=[(Q4_0, out)])


def test_a_quantized_source_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="Q4_1"):
        encode_rows(np.zeros(20, np.uint8), Q4_1, n_cols=32, through_f16=False, targets=[])
