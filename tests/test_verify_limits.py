"""Limits of divergence: a file beyond its type's is not good enough."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

import convert
from convert.errors import UsageError, VerificationError
from convert.verify import Measured, Verification, VerifiedFile, held_to, parse_limit

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def paths(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Return files of two types."""
    wanted = convert.OutputRequest(tmp_path_factory.mktemp("limits"), types="q8_0,q4_k_m")
    return [output.path for output in convert.convert_all(tiny_llama, wanted).outputs]


def verification(paths: list[Path], *divergences: float | None) -> Verification:
    measured = [Measured(loads=True, kl_divergence=found) for found in divergences]
    return Verification(tuple(VerifiedFile(path, 1, (), (), each) for path, each in zip(paths, measured, strict=True)))


def test_a_file_beyond_its_limit_is_a_problem(paths: list[Path]) -> None:
    limits = [parse_limit("q4_k_m=0.05"), parse_limit("Q8_0=1e-3")]
    held_to(verification(paths, 0.001, 0.05), limits).check()
    with pytest.raises(VerificationError, match=r"Q4_K_M.gguf`: it diverges by 0.051000 nats, at most 0.05 are wanted"):
        held_to(verification(paths, 0.001, 0.051), limits).check()


def test_a_file_with_a_limit_that_nobody_measured_is_a_problem(paths: list[Path]) -> None:
    with pytest.raises(VerificationError, match=r"its divergence was not measured, at most 0.05 nats are wanted"):
        held_to(verification(paths, 0.001, None), [parse_limit("q4_k_m=0.05")]).check()


def test_a_limit_for_which_there_is_no_file_is_a_mistake(paths: list[Path]) -> None:
    with pytest.raises(UsageError, match="no file is Q5_0, for which there is a limit"):
        held_to(verification(paths, 0.0, 0.0), [parse_limit("q5_0=0.1")])


@pytest.mark.parametrize("text", ["q4_k_m", "q4_k_m=", "q4_k_m=-1", "q4_k_m=nan", "standard=1"])
def test_what_is_no_limit_is_told(text: str) -> None:
    with pytest.raises(UsageError, match=r"is not TYPE=NATS, such as q4_k_m=0.05"):
        parse_limit(text)
