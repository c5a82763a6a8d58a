"""AQLM checkpoints: one and several codebooks of every size, against the paper's sum written out.

The reference adds the vectors one after the other in float32 and rounds, in torch (arXiv:2401.06118, section 3; aqlm
1.1.7, utils.py); a hand-checked layer stands as literals.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

import pytest
import torch
from group_packing import NAME, Tensors, assert_decoded, outputs_of, packed_and_plain, replaced, write_packed
from packed_checkpoints import unpacked

from convert.errors import CheckpointError, ConfigError, UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

DTYPES: Final = [torch.float16, torch.bfloat16, torch.float32]


def aqlm_module(
    name: str = NAME,
    shape: tuple[int, int] = (24, 32),
    *,
    books: int = 1,
    bits: int = 16,
    group: tuple[int, int] = (1, 8),
    dtype: torch.dtype = torch.float16,
) -> tuple[Tensors, torch.Tensor]:
    """Make random codes, codebooks and scales of a weight, and say what weight they stand for."""
    random = torch.Generator().manual_seed(0)
    n_out, n_in = shape[0] // group[0], shape[1] // group[1]
    codes = torch.randint(0, 1 << bits, (n_out, n_in, books), generator=random)
    codebooks = torch.randn((books, 1 << bits, *group), generator=random).to(dtype)
    scales = (torch.rand((n_out, 1, 1, 1), generator=random) + 0.01).to(dtype)
    expected = torch.zeros(shape, dtype=dtype)
    for out in range(n_out):
        for in_ in range(n_in):
            total = torch.zeros(group)
            for book in range(books):
                total += codebooks[book, codes[out, in_, book]].float()
            rows = slice(out * group[0], (out + 1) * group[0])
            expected[rows, in_ * group[1] : (in_ + 1) * group[1]] = total.to(dtype) * scales[out, 0]
    signed = torch.where(codes >= 1 << (bits - 1), codes - (1 << bits), codes)
    stored = signed.to(torch.int8 if bits <= 8 else torch.int16)
    return {f"{name}.codes": stored, f"{name}.codebooks": codebooks, f"{name}.scales": scales}, expected


def aqlm(**more: object) -> dict[str, Any]:
    """Return a quantization section as transformers writes it, of one codebook of 16 bits."""
    section = {"in_group_size": 8, "out_group_size": 1, "num_codebooks": 1, "nbits_per_codebook": 16}
    return {"quant_method": "aqlm", **section, "linear_weights_not_to_quantize": ["lm_head.weight"], **more}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("books", "bits", "group"),
    [
        (1, 16, (1, 8)),
        (2, 8, (1, 8)),
        (1, 16, (1, 16)),
        (8, 8, (1, 32)),
        (4, 3, (1, 8)),
        (3, 12, (4, 8)),
        (2, 8, (24, 1)),
    ],
)
def test_aqlm(tmp_path: Path, books: int, bits: int, group: tuple[int, int], dtype: torch.dtype) -> None:
    tensors, expected = aqlm_module(books=books, bits=bits, group=group, dtype=dtype)
    section = aqlm(num_codebooks=books, nbits_per_codebook=bits, out_group_size=group[0], in_group_size=group[1])
    assert_decoded(tmp_path, tensors, section, expected)


def test_aqlm_by_hand(tmp_path: Path) -> None:
    """Two codebooks of two vectors: the second's second vector is code -1, as one of one bit has it."""
    tensors = {
        f"{NAME}.codes": torch.tensor([[[0, 0], [-1, 0]], [[0, -1], [-1, -1]]], dtype=torch.int8),
        f"{NAME}.codebooks": torch.tensor([[[[1.0, 2]], [[3, 4]]], [[[10, 20]], [[30, 40]]]]),
        f"{NAME}.scales": torch.tensor([0.5, 2]).reshape(2, 1, 1, 1),
    }
    section = {"quant_method": "aqlm"}
    assert_decoded(tmp_path, tensors, section, torch.tensor([[5.5, 11, 6.5, 12], [62, 84, 66, 88]]))


def test_vectors_that_are_no_numbers_and_negative_zeros(tmp_path: Path) -> None:
    """A sum begins with zero, so a negative zero is lost in it; a scale that is negative gives one back."""
    tensors = {
        f"{NAME}.codes": torch.tensor([[[0], [1]]], dtype=torch.int8),
        f"{NAME}.codebooks": torch.tensor([[[[-0.0, 0.0]], [[float("inf"), 60000]]]]).half(),
        f"{NAME}.scales": torch.tensor([-2.0]).half().reshape(1, 1, 1, 1),
    }
    expected = torch.tensor([[-0.0, -0.0, -float("inf"), -float("inf")]]).half()
    assert_decoded(tmp_path, tensors, {"quant_method": "aqlm"}, expected)


def test_the_files_are_those_of_the_dequantized_checkpoint(tmp_path: Path) -> None:
    def pack(name: str, shape: tuple[int, int]) -> tuple[Tensors, torch.Tensor]:
        return aqlm_module(name, shape, books=2, bits=8)

    ours, plain = packed_and_plain(tmp_path, aqlm(num_codebooks=2, nbits_per_codebook=8), pack)
    assert outputs_of(ours, tmp_path / "a") == outputs_of(plain, tmp_path / "b")


CODES: Final = torch.zeros((24, 4, 1), dtype=torch.int16)


def only_plain(tensors: Tensors) -> None:
    """Put the weight itself in the place of all."""
    tensors.clear()
    tensors[f"{NAME}.weight"] = torch.ones(24, 32)


HOSTILE: Final[dict[str, tuple[Callable[[Tensors], None], dict[str, Any], type[Exception], str]]] = {
    "no-codes": (replaced("codes", None), aqlm(), CheckpointError, f"has no `{NAME}.codes` that it belongs to"),
    "no-codebooks": (
        replaced("codebooks", None),
        aqlm(),
        CheckpointError,
        "has no `codebooks`, only `codes`, `scales`",
    ),
    "no-scales": (replaced("scales", None), aqlm(), CheckpointError, "has no `scales`, only `codebooks`, `codes`"),
    "weight-too": (
        lambda tensors: tensors.update({f"{NAME}.weight": torch.ones(24, 32)}),
        aqlm(),
        CheckpointError,
        f"packed module `{NAME}` has both `weight` and",
    ),
    "codes-type": (replaced("codes", CODES.int()), aqlm(), CheckpointError, "has type I32, wanted I8 or I16"),
    "codes-bits": (replaced("codes", CODES.char()), aqlm(), CheckpointError, "of 65536 vectors and codes in I8"),
    "codes-flat": (replaced("codes", CODES[0]), aqlm(), CheckpointError, "wanted 3 dimensions that are not empty"),
    "codes-empty": (replaced("codes", CODES[:0]), aqlm(), CheckpointError, "wanted 3 dimensions that are not empty"),
    "codes-books": (
        replaced("codes", torch.zeros((24, 4, 2), dtype=torch.int16)),
        aqlm(),
        CheckpointError,
        "has contradicting shapes: `codebooks` (1, 65536, 1, 8), `codes` (24, 4, 2), `scales` (24, 1, 1, 1)",
    ),
    "codes-rows": (replaced("codes", CODES[:3]), aqlm(), CheckpointError, "has contradicting shapes:"),
    "books-type": (
        replaced("codebooks", torch.zeros((1, 65536, 1, 8), dtype=torch.int8)),
        aqlm(),
        CheckpointError,
        "has type I8, wanted F16 or BF16 or F32",
    ),
    "books-flat": (replaced("codebooks", torch.zeros(65536, 8)), aqlm(), CheckpointError, "wanted 4 dimensions"),
    "books-size": (
        replaced("codebooks", torch.zeros((1, 65535, 1, 8)).half()),
        aqlm(),
        CheckpointError,
        "has codebooks of 65535 vectors and codes in I16",
    ),
    "books-bits": (
        replaced("codebooks", torch.zeros((1, 1 << 17, 1, 2)).half()),
        aqlm(),
        CheckpointError,
        "has codebooks of 131072 vectors and codes in I16",
    ),
    "books-one": (
        replaced("codebooks", torch.zeros((1, 1, 1, 8)).half()),
        aqlm(),
        CheckpointError,
        "has codebooks of 1 vectors and codes in I16",
    ),
    "books-huge": (
        replaced("codebooks", torch.zeros((1, 65536, 1, 65)).half()),
        aqlm(),
        UnsupportedError,
        "has 8519680 bytes, at most 8388608 are decoded",
    ),
    "scales-type": (replaced("scales", torch.ones(24, 1, 1, 1)), aqlm(), CheckpointError, "has type F32, wanted F16"),
    "scales-shape": (
        replaced("scales", torch.ones(24, 4, 1, 1).half()),
        aqlm(),
        CheckpointError,
        "has contradicting shapes:",
    ),
    "config": (
        replaced("scales", torch.ones(24, 1, 1, 1).half()),
        aqlm(nbits_per_codebook=8),
        CheckpointError,
        "nbits_per_codebook 8, out_group_size 1, in_group_size 8, its tensors are num_codebooks 1, nbits_per_codebook",
    ),
    "config-type": (replaced("codes", None), aqlm(in_group_size="8"), ConfigError, "is '8', wanted an integer"),
    "config-names": (
        replaced("codes", None),
        aqlm(linear_weights_not_to_quantize="lm_head"),
        ConfigError,
        "is 'lm_head', wanted a list of strings",
    ),
    "left-out": (
        replaced("codes", CODES),
        aqlm(linear_weights_not_to_quantize=[f"{NAME}.weight"]),
        CheckpointError,
        f"says that `{NAME}.weight` is not quantized, but `{NAME}.codes` is",
    ),
    "undeclared": (replaced("codes", CODES), {}, CheckpointError, f"but `{NAME}.codebooks` is AQLM's"),
    "another": (replaced("codes", CODES), {"quant_method": "bitnet"}, CheckpointError, "declares `bitnet`, but"),
}


@pytest.mark.parametrize("row", HOSTILE)
def test_what_is_wrong_is_an_error_that_names_it(tmp_path: Path, row: str) -> None:
    change, section, error, message = HOSTILE[row]
    tensors, _ = aqlm_module()
    change(tensors)
    with pytest.raises(error, match=re.escape(message)):
        unpacked(write_packed(tmp_path, tensors, section))
