"""The choice of every tensor's type is llama-quantize's: its own dry run says so, for every file type and option."""

from __future__ import annotations

import re
import subprocess
from itertools import combinations
from typing import TYPE_CHECKING, Any, Final

import pytest
from gguf_models import SMALL_MODELS, flags_of, small_imatrix, write_small_model

from convert.model import read_gguf_model
from convert.plan.files import file_content
from convert.plan.pruned import prune
from convert.quant_mix import FILE_TYPES, NO_OPTIONS, QuantizeOptions, quantize_options

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from reference import Reference

# `[ 1/ 47] output.weight - [ 256, …], type = f16, size = 1.0 MiB -> 0.4 MiB (q6_K)`: src/llama-quant.cpp @ 0c1e570.
STEP: Final = re.compile(r"^\[ *\d+/ *\d+\] +(\S+) +- \[.*\], type = +(\S+), size = .*?(?:\((\S+)\))?$", re.MULTILINE)

Model = tuple["Path", "Path"]
REFUSED: Final = "refused"


@pytest.fixture(scope="session")
def small_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Model]:
    """Write a small model and its importance matrix; made once a name."""
    folder = tmp_path_factory.mktemp("small-models")

    def write(name: str) -> Model:
        model, imatrix = folder / f"{name}.gguf", folder / f"{name}.imatrix.gguf"
        if not model.exists():
            small_imatrix(SMALL_MODELS[name], imatrix)
            write_small_model(SMALL_MODELS[name], model)
        return model, imatrix

    return write


def theirs(reference: Reference, model: Path, kind: str, flags: Sequence[str]) -> Mapping[str, str] | str:
    command = [str(reference.quantize), "--dry-run", *flags, str(model), kind]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    if finished.returncode:
        return REFUSED
    return {name: (new or old).upper() for name, old, new in STEP.findall(f"{finished.stdout}\n{finished.stderr}\n")}


def ours(model: Path, kind: str, options: QuantizeOptions) -> Mapping[str, str]:
    pruned, options = prune(read_gguf_model(model), options)
    content = file_content(pruned, FILE_TYPES[kind], options)
    return {tensor.name: tensor.choice.type.name for tensor in content.tensors}


CANNOT: Final = {"Q1_0"}  # rows that are not whole blocks have no fallback, here and there


@pytest.mark.parametrize("name", SMALL_MODELS)
def test_every_file_types_choice_is_llama_quantizes(
    name: str, small_model: Callable[[str], Model], reference: Reference
) -> None:
    model, imatrix = small_model(name)
    is_odd = name.startswith("rows-of")
    for kind in FILE_TYPES.keys() - (CANNOT if is_odd else set()):
        assert ours(model, kind, NO_OPTIONS) == theirs(reference, model, kind, []), kind
        importance = quantize_options(imatrix=imatrix)
        assert ours(model, kind, importance) == theirs(reference, model, kind, ["--imatrix", str(imatrix)]), kind


OPTIONS: Final[Mapping[str, Mapping[str, Any]]] = {
    "pure": {"pure": True},
    "leave output": {"leave_output_tensor": True},
    "output": {"output_tensor_type": "q5_K"},
    "embedding": {"token_embedding_type": "IQ4_NL"},
    "by name": {"tensor_type": ["attn_V=q8_0", r"\D[02]\.ffn_(up|down)=IQ4_XS"]},
    "by other names": {"tensor_type": [r"blk\.[[:digit:]]*[1-3]\..*=q6_K", "per_layer=q4_0", "output.weight=bf16"]},
    "pruned": {"prune_layers": "0,2"},
    "experts": {"override_kv": ["llama.expert_count=int:8", "llama.attention.head_count_kv=int:1"]},
    "layers": {"override_kv": ["llama.block_count=int:80"]},
}
KINDS: Final = (
    "Q2_K", "Q2_K_S", "Q3_K_M", "Q4_K_M", "Q5_K_S", "IQ2_M", "IQ1_S", "IQ3_XS", "IQ3_XXS", "IQ4_XS", "MXFP4_MOE",
    "Q4_0", "F16", "COPY", "TQ1_0", "Q8_0",
)  # fmt: skip
SINGLE: Final = [(name, kind) for name in OPTIONS for kind in KINDS]
PAIRS: Final = list(combinations(OPTIONS, 2))


def joined(*names: str) -> dict[str, Any]:
    words: dict[str, Any] = {}
    for name in names:
        for key, value in OPTIONS[name].items():
            words[key] = [*words.get(key, []), *value] if isinstance(value, list) else value
    return words


@pytest.mark.parametrize("model_name", ["eight-experts", "per-layer-embeddings"])
@pytest.mark.parametrize("name", OPTIONS)
def test_each_option_means_what_it_means_to_llama_quantize(
    name: str, model_name: str, small_model: Callable[[str], Model], reference: Reference
) -> None:
    if name == "experts" and not SMALL_MODELS[model_name].n_experts:
        model_name = "two-experts"  # a count of experts needs a count of those used
    model, _ = small_model(model_name)
    for kind in KINDS:
        options = quantize_options(**joined(name))
        assert ours(model, kind, options) == theirs(reference, model, kind, flags_of(joined(name))), kind


@pytest.mark.parametrize("names", PAIRS, ids=" and ".join)
def test_options_go_together_as_in_llama_quantize(
    names: tuple[str, str], small_model: Callable[[str], Model], reference: Reference
) -> None:
    model, imatrix = small_model("two-experts")
    index = PAIRS.index(names)
    for kind in (KINDS[index % len(KINDS)], KINDS[-1 - index % len(KINDS)]):
        words = {**joined(*names), "imatrix": imatrix}
        assert ours(model, kind, quantize_options(**words)) == theirs(reference, model, kind, flags_of(words)), kind


@pytest.mark.parametrize(
    "pattern",
    [
        "attn_q", "^blk", r"\.weight$", r"\W1\W", r"blk\.(0|2)\.", "[[:alpha:]]+_gate", "ffn_(?!up)", r"q\b",
        "b{1,2}lk", r"(\w)\1", r"[^[:digit:]]2", r"\a", "x*", "token|output", r"[\w]k\.[1-2]", "ATTN_K",
    ],
)  # fmt: skip
def test_patterns_find_what_std_regex_finds(
    pattern: str, small_model: Callable[[str], Model], reference: Reference
) -> None:
    model, _ = small_model("per-layer-embeddings")
    options = quantize_options(tensor_type=[f"{pattern}=q4_1"])
    flags = ["--tensor-type", f"{pattern}=q4_1"]
    assert ours(model, "Q8_0", options) == theirs(reference, model, "Q8_0", flags)
