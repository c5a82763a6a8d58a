"""Whole files that llama-quantize makes with its options and importance matrices: the same sha256."""

from __future__ import annotations

import subprocess
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Final

import pytest
from gguf_models import SMALL_MODELS, flags_of, small_imatrix, write_small_model

import convert
from convert.codec import CODECS
from convert.errors import ToolchainError, UnsupportedError
from convert.plan import OutputRequest
from convert.quant_mix import FILE_TYPES, NO_OPTIONS, QuantizeOptions, quantize_options
from convert.stream import slices

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from reference import Reference

MADE: Final = [kind.name for kind in FILE_TYPES.values() if kind.type in CODECS]
# ggml takes up to 11 s to begin with a type: these once, not with every model.
SLOW: Final = ("IQ3_XS", "IQ3_XXS", "IQ2_M", "IQ2_S", "IQ2_XS", "IQ2_XXS", "IQ1_M", "IQ1_S")
NEED_IMPORTANCE: Final = ("Q2_K_S", *SLOW)
# Heads shared by four and more or not, experts, tied, one layer, Falcon, every fallback.
MODELS: Final = ("gqa4", "eight-experts", "four-experts", "falcon-tied", "one-layer", "rows-of-288", "rows-of-48")


def models_for(kind: str) -> tuple[str, ...]:
    if kind in SLOW:
        return ("eight-experts",)
    if kind in ("IQ3_S", "IQ3_M"):
        return ("gqa4", "eight-experts", "rows-of-288")
    return tuple(name for name in MODELS if kind != "Q1_0" or not name.startswith("rows"))  # it has no fallback


def hash_of(path: Path) -> str:
    return sha256(path.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the small models and an importance matrix of each, whole and partial."""
    made = tmp_path_factory.mktemp("files")
    for name in MODELS:
        write_small_model(SMALL_MODELS[name], made / f"{name}.gguf")
        small_imatrix(SMALL_MODELS[name], made / f"{name}.imatrix.gguf")
        small_imatrix(SMALL_MODELS[name], made / f"{name}.partial.gguf", without="ffn_up")
    return made


@pytest.fixture
def theirs(reference: Reference, tmp_path: Path) -> Callable[..., str]:
    """Run llama-quantize: the hash of its file."""

    def quantize(source: Path, kind: str, **words: Any) -> str:  # noqa: ANN401 - options as they are typed
        out = tmp_path / "theirs.gguf"
        command = [str(reference.quantize), *flags_of(words), str(source), str(out), kind, "1"]
        finished = subprocess.run(command, capture_output=True, text=True, check=False)
        if finished.returncode:
            raise ToolchainError(finished.stderr[-2000:])
        return hash_of(out)

    return quantize


def ours(source: Path, out: Path, kind: str, options: QuantizeOptions = NO_OPTIONS) -> str:
    (output,) = convert.quantize(source, OutputRequest(out, types=kind, name="ours", options=options)).outputs
    return hash_of(output.path)


@pytest.mark.parametrize("kind", [kind for kind in MADE if kind not in NEED_IMPORTANCE])
def test_live_a_file_of_every_type_is_llama_quantizes(
    kind: str, folder: Path, theirs: Callable[..., str], tmp_path: Path
) -> None:
    for name in models_for(kind):
        source = folder / f"{name}.gguf"
        assert ours(source, tmp_path / name, kind) == theirs(source, kind), name


@pytest.mark.parametrize("kind", MADE)
def test_live_a_file_made_with_importance_is_llama_quantizes(
    kind: str, folder: Path, theirs: Callable[..., str], tmp_path: Path
) -> None:
    for name in models_for(kind):
        for entries in ("imatrix", "partial") if kind not in NEED_IMPORTANCE else ("imatrix",):
            source = folder / f"{name}.gguf"
            words: dict[str, Any] = {"imatrix": folder / f"{name}.{entries}.gguf"}
            mine = ours(source, tmp_path / name / entries, kind, quantize_options(**words))
            assert mine == theirs(source, kind, **words), (name, entries)


@pytest.mark.parametrize("rows", [1, 3, 5])
def test_live_slices_that_begin_and_end_in_the_midst_of_experts_have_their_importance(
    rows: int, folder: Path, theirs: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slices, "SLICE_VALUES", rows * 256)
    words: dict[str, Any] = {"imatrix": folder / "eight-experts.imatrix.gguf"}
    source = folder / "eight-experts.gguf"
    assert ours(source, tmp_path, "Q4_K_M", quantize_options(**words)) == theirs(source, "Q4_K_M", **words)


OPTIONS: Final[Mapping[str, dict[str, Any]]] = {
    "pure": {"pure": True, "output_tensor_type": "q5_1"},
    "types": {"tensor_type": ["attn_v=q8_0", r"\D1\.ffn=q3_k"], "token_embedding_type": "bf16"},
    "left": {"leave_output_tensor": True, "exclude_weights": ["attn", "blk.1."]},
    "pruned": {"prune_layers": "0,2", "include_weights": ["ffn", "attn_v"]},
    "overrides": {
        "override_kv": [
            "general.name=str:first", "some.number=int:-7", "some.share=float:0.1", "some.flag=bool:true",
            "general.name=str:last", "general.file_type=int:3",
        ],
    },
}  # fmt: skip


@pytest.mark.parametrize("kind", ["Q4_K_M", "Q3_K_M", "F16"])
@pytest.mark.parametrize("name", OPTIONS)
def test_live_a_file_made_with_options_is_llama_quantizes(
    name: str, kind: str, folder: Path, theirs: Callable[..., str], tmp_path: Path
) -> None:
    for model in ("gqa4", "eight-experts"):
        words: dict[str, Any] = {"imatrix": folder / f"{model}.imatrix.gguf", **OPTIONS[name]}
        source = folder / f"{model}.gguf"
        assert ours(source, tmp_path / model, kind, quantize_options(**words)) == theirs(source, kind, **words), model


@pytest.mark.parametrize("start", ["Q8_0", "Q4_0", "Q4_K_M"])
def test_live_what_is_quantized_already_is_quantized_again_where_that_is_allowed(
    start: str, folder: Path, theirs: Callable[..., str], tmp_path: Path
) -> None:
    source = convert.quantize(folder / "gqa4.gguf", OutputRequest(tmp_path, types=start)).outputs[0].path
    with pytest.raises(UnsupportedError, match="already"):
        ours(source, tmp_path / "refused", "Q5_K_M")
    for kind in ("Q5_K_M", "F16", "COPY"):
        words: dict[str, Any] = {"allow_requantize": True}
        assert ours(source, tmp_path / kind, kind, quantize_options(**words)) == theirs(source, kind, **words), kind


def test_a_plan_says_that_quantizing_twice_loses_twice(folder: Path, tmp_path: Path) -> None:
    source = convert.quantize(folder / "gqa4.gguf", OutputRequest(tmp_path, types="q8_0")).outputs[0].path
    options = quantize_options(allow_requantize=True)
    request = OutputRequest(tmp_path / "again", types="q8_0,q4_0", options=options)
    notes = convert.plan_quantize(source, request).notes
    assert notes == ("65 tensors are quantized already, and lose a second time",)


@pytest.mark.parametrize(
    ("name", "kinds"),
    [
        ("imatrix.gguf", [kind for kind in MADE if kind not in SLOW and kind not in ("F32", "BF16")]),
        ("imatrix.dat", ["F16", "Q4_0", "Q4_K_M", "Q2_K_S", "IQ4_XS"]),
    ],
)
def test_live_a_checkpoint_with_a_real_importance_matrix_becomes_what_the_reference_makes(
    name: str, kinds: list[str], calibrated_llama: Path, tiny_llama: Path, theirs: Callable[..., str], tmp_path: Path
) -> None:
    words: dict[str, Any] = {"imatrix": str(calibrated_llama / name)}
    request = OutputRequest(tmp_path, types=kinds, name="ours", options=quantize_options(**words))
    made = {output.path.stem: hash_of(output.path) for output in convert.convert_all(tiny_llama, request).outputs}
    assert made.pop("ours-F16") == hash_of(calibrated_llama / "F16.gguf")
    assert made == {
        f"ours-{kind}": theirs(calibrated_llama / "F16.gguf", kind, **words) for kind in kinds if kind != "F16"
    }


@pytest.mark.parametrize("kind", ["F16", "Q8_0", "Q4_K_M"])
def test_live_a_checkpoint_without_some_layers_becomes_what_the_reference_makes(
    kind: str, calibrated_llama: Path, tiny_llama: Path, theirs: Callable[..., str], tmp_path: Path
) -> None:
    words: dict[str, Any] = {"prune_layers": "1", "override_kv": ["general.name=str:pruned"]}
    out = tmp_path / "ours.gguf"
    convert.convert_one(tiny_llama, out, type=kind, options=quantize_options(**words))
    assert hash_of(out) == theirs(calibrated_llama / "F16.gguf", kind, **words)
