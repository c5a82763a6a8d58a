"""The families' float files compute, under llama.cpp, what transformers computes of the checkpoint, on the same tokens.

Bytes that equal the reference's are only as right as the reference. Here the judge is transformers in float32. That it
can fail is shown too: on files of checkpoints in which one thing is wrong, such as a conversion could leave it.
"""

from __future__ import annotations

import random
import re
import subprocess
import warnings
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pytest
import reference as llama_cpp
from family_checkpoints import FAMILY_CHECKPOINTS, write_family_checkpoint
from family_making import change_weights, save_family_checkpoint
from stories import tell_story

import convert
from convert.gguf_file import read_gguf
from convert.verify.probabilities import Probabilities, divergence, read_probabilities, write_probabilities

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    import torch
    from reference import Reference

    Weights = dict[str, torch.Tensor]

RUN: Final = [row.name for row in FAMILY_CHECKPOINTS.values() if not (row.not_run or row.refused_by_reference)]
MOST_NATS: Final = 1e-3
LEAST_SAME_TOP: Final = 0.99
# The reference's files where ours differ, and the tensor or key that llama.cpp misses or finds wrong.
NOT_LOADED: Final = {
    "EXAONE-3.5-2.4B-Instruct": "exaone.attention.layer_norm_rms_epsilon",
    "gemma-3-padded-vocabulary": "token_embd.weight",
    "OLMo-2-narrow": "output.weight",
    "Qwen2-MoE-tied": "output.weight",
    "gemma-3n-as-saved": "blk.20.attn_k.weight",
    "phi-2-other-theta": "attn_k.weight",
}
N_CTX: Final = 128  # more than Gemma's window of 24, in the half that is judged
N_WINDOWS: Final = 4


def _rows(names: Iterable[str]) -> list[Any]:
    return [pytest.param(name, marks=[pytest.mark.shared] * FAMILY_CHECKPOINTS[name].shared) for name in names]


@dataclass(frozen=True, slots=True)
class Judge:
    """llama.cpp on one side, transformers on the other, a text between them."""

    reference: Reference
    text: Path
    folder: Path

    def measure(self, file: Path, name: str) -> tuple[float, float]:
        """Return how far a file's probabilities are from the row's: nats, and how often the likeliest is the same."""
        ours = self._run(file, file.with_suffix(".probabilities"))
        try:
            return divergence(ours, self._base(name, ours, file))
        finally:
            ours.path.unlink()

    def _run(self, file: Path, out: Path) -> Probabilities:
        command = [str(self.reference.perplexity), "-m", str(file), "-f", str(self.text), "-c", str(N_CTX)]
        command += ["--chunks", str(N_WINDOWS), "--no-repack", "-t", "1"]
        command += ["--kl-divergence-base", str(out)]
        finished = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
        assert finished.returncode == 0, finished.stderr[-1000:]
        return read_probabilities(out)

    def _base(self, name: str, like: Probabilities, file: Path) -> Probabilities:
        """Compute a row's probabilities of the same tokens, once a row."""
        out = self.folder / f"{name}.base"
        if out.exists():
            return read_probabilities(out)
        network = self._network(name)
        bos = read_gguf(file).metadata.get("tokenizer.ggml.bos_token_id")
        bos = bos if like.tokens[0, 0] == bos else None

        def logits(window: int) -> np.ndarray[Any, np.dtype[np.float32]]:
            ids = like.tokens[window].astype(np.int64)
            if bos is not None:  # llama-perplexity puts it in place of each window's first token
                ids[0] = bos
            return _logits(network, ids)[like.first : like.n_ctx - 1]

        return write_probabilities(out, like, n_windows=len(like.tokens), logits=logits)

    def _network(self, name: str) -> Any:  # noqa: ANN401 - transformers publishes no types
        import torch
        import transformers

        row, model = FAMILY_CHECKPOINTS[name], self.folder / "models" / name
        if row.judge_unchanged:
            save_family_checkpoint(replace(row, change_weights=None, saved_config={}), model)
        elif not model.exists():
            write_family_checkpoint(name, model.parent)
        transformers.utils.logging.set_verbosity_error()
        transformers.utils.logging.disable_progress_bar()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            is_whole = row.architecture.endswith("ForConditionalGeneration")
            network = getattr(transformers, row.architecture) if is_whole else transformers.AutoModelForCausalLM
            return network.from_pretrained(model, dtype=torch.float32).eval()


def _logits(network: Any, ids: np.ndarray[Any, np.dtype[np.int64]]) -> np.ndarray[Any, np.dtype[np.float32]]:  # noqa: ANN401
    import torch

    with torch.inference_mode():
        found: np.ndarray[Any, np.dtype[np.float32]] = network(torch.from_numpy(ids)[None]).logits[0].float().numpy()
    return found


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Let torch use one thread: such small matrices only make several wait for each other."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def judge(reference: Reference, tmp_path_factory: pytest.TempPathFactory) -> Judge:
    """Return a judge whose text is long enough for any row's windows."""
    folder = tmp_path_factory.mktemp("judge")
    rng = random.Random(3)  # noqa: S311  # stories, not secrets
    text = folder / "text"
    text.write_text(" ".join(tell_story(rng) for _ in range(8)))
    return Judge(reference, text, folder)


@pytest.mark.parametrize("name", _rows(RUN))
def test_llama_cpp_computes_of_our_file_what_transformers_computes_of_the_checkpoint(
    name: str, judge: Judge, tmp_path: Path
) -> None:
    file = tmp_path / "model.gguf"
    convert.convert_one(write_family_checkpoint(name, tmp_path), file, type="f16")
    nats, same_top = judge.measure(file, name)
    assert nats < MOST_NATS
    assert same_top > LEAST_SAME_TOP


@pytest.mark.parametrize("name", _rows([row.name for row in FAMILY_CHECKPOINTS.values() if row.differs]))
def test_where_our_file_differs_the_references_computes_something_else(
    name: str, judge: Judge, reference: Reference, tmp_path: Path
) -> None:
    file = tmp_path / "reference.gguf"
    (result,) = llama_cpp.convert(reference.source, [(write_family_checkpoint(name, tmp_path), file)])
    assert result.error is None
    if name in NOT_LOADED:
        with pytest.raises(AssertionError, match=re.escape(NOT_LOADED[name])):
            judge.measure(file, name)
        return
    nats, _ = judge.measure(file, name)
    assert nats > 10 * MOST_NATS


def _weights_of_one_softmax(
    scores: torch.Tensor,
    jitter_eps: float,
    training: bool,
    top_k: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    del jitter_eps, training
    weights, chosen = scores.softmax(dim=-1).topk(top_k)
    return weights / weights.sum(dim=-1, keepdim=True), chosen


def _norm_without_mean(norm: torch.nn.LayerNorm, states: torch.Tensor) -> torch.Tensor:
    return states * (states.square().mean(-1, keepdim=True) + norm.eps).rsqrt() * norm.weight + norm.bias


@pytest.mark.parametrize("name", ["Phi-3.5-MoE-instruct", "Phi-tiny-MoE"])
def test_llama_cpp_runs_phi_moe_otherwise_only_in_its_norms_and_how_it_weighs_experts(
    name: str, judge: Judge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("transformers.models.phimoe.modeling_phimoe.sparsemixer", _weights_of_one_softmax)
    monkeypatch.setattr("torch.nn.LayerNorm.forward", _norm_without_mean)
    file = tmp_path / "model.gguf"
    convert.convert_one(write_family_checkpoint(name, tmp_path), file, type="f16")
    nats, _ = judge.measure(file, name)
    assert nats < MOST_NATS


# --- The judge, judged


def _interleaved(part: str) -> Callable[[Weights], Weights]:
    """Order the rows of each head as Llama's conversion does, which these families must not."""

    def change(weights: Weights) -> Weights:
        def rows(tensor: torch.Tensor) -> torch.Tensor:
            return tensor.reshape(4, 2, len(tensor) // 8, -1).swapaxes(1, 2).reshape(tensor.shape)

        return {name: rows(tensor) if part in name else tensor for name, tensor in weights.items()}

    return change


def _swapped(one: str, other: str) -> Callable[[Weights], Weights]:
    """Give the tensors of one name the values of the other, and the reverse."""

    def change(weights: Weights) -> Weights:
        other_name = {one: other, other: one}
        parts = {name: part for name in weights for part in (one, other) if part in name}
        return weights | {name: weights[name.replace(part, other_name[part])] for name, part in parts.items()}

    return change


def _plus(part: str, value: float) -> Callable[[Weights], Weights]:
    """Add a number to some tensors."""
    return lambda weights: {name: tensor + value if part in name else tensor for name, tensor in weights.items()}


def _times(part: str, value: float) -> Callable[[Weights], Weights]:
    """Multiply some tensors by a number."""
    return lambda weights: {name: tensor * value if part in name else tensor for name, tensor in weights.items()}


def _transposed(part: str) -> Callable[[Weights], Weights]:
    """Transpose some square matrices."""
    return lambda weights: {name: tensor.T.contiguous() if part in name else tensor for name, tensor in weights.items()}


def _backwards(part: str) -> Callable[[Weights], Weights]:
    """Turn the last axis of some tensors round."""
    return lambda weights: {name: tensor.flip(-1) if part in name else tensor for name, tensor in weights.items()}


def _unchanged(weights: Weights) -> Weights:
    return weights


SOUND: Final = "nothing"
DAMAGED: Final[dict[tuple[str, str], Callable[[Weights], Weights]]] = {
    ("Qwen3-8x1M", SOUND): _unchanged,
    ("Qwen3-8x1M", "queries in Llama's order"): _interleaved("q_proj"),
    ("Qwen3-8x1M", "gate and up swapped in the experts"): _swapped("gate_proj", "up_proj"),
    ("Qwen3-8x1M", "two experts' ways down swapped"): _swapped("experts.0.down", "experts.1.down"),
    ("gemma-3-1b-it", SOUND): _unchanged,
    ("gemma-3-1b-it", "queries in Llama's order"): _interleaved("q_proj"),
    ("gemma-3-1b-it", "1 not added to the norms of queries"): _plus("q_norm", -1.0),
    ("gemma-3-1b-it", "1 not added to the norms behind attention"): _plus("post_attention", -1.0),
    ("bloom-560m", SOUND): _unchanged,
    ("bloom-560m", "queries, keys and values in another order"): _interleaved("query_key_value.weight"),
    ("bloom-560m", "biases of these in another order"): _interleaved("query_key_value.bias"),
    ("DeepSeek-V3", SOUND): _unchanged,
    ("DeepSeek-V3", "queries in Llama's order"): _interleaved("q_b_proj"),
    ("DeepSeek-V3", "keys and values in another order"): _interleaved("kv_b_proj"),
    ("DeepSeek-V3", "no correction of the experts' scores"): _times("e_score_correction_bias", 0.0),
    ("SmolLM3-3B", "queries not in Llama's order"): _interleaved("q_proj"),
    ("gpt2", "a matrix not transposed"): _transposed("attn.c_proj.weight"),
    ("falcon-40b", "queries, keys and values in another order"): _interleaved("query_key_value.weight"),
    ("Minitron-4B", "1 not added to the norms"): _plus("layernorm.weight", -1.0),
    ("LFM2-1.2B", "the convolution backwards"): _backwards("conv.conv.weight"),
}


@pytest.fixture(scope="module")
def damaged_files(
    reference: Reference, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> dict[tuple[str, str], Path]:
    """Return the reference's files of the damaged checkpoints that are tested in this run."""
    items = [item for item in request.session.items if isinstance(item, pytest.Function)]
    params = [item.callspec.params for item in items if "damaged_files" in item.fixturenames]
    cases = [(str(case["name"]), str(case["damage"])) for case in params]
    root = tmp_path_factory.mktemp("damaged")
    jobs: dict[tuple[str, str], tuple[Path, Path]] = {}
    for number, (name, damage) in enumerate(cases):
        folder = write_family_checkpoint(name, root / str(number))
        change_weights(folder, DAMAGED[name, damage])
        jobs[name, damage] = (folder, root / f"{number}.gguf")
    results = llama_cpp.convert(reference.source, list(jobs.values()))
    assert [result.error for result in results] == [None] * len(jobs)
    return {case: out for case, (_, out) in jobs.items()}


def _cases(*, sound: bool) -> list[Any]:
    return [
        pytest.param(name, damage, marks=[pytest.mark.shared] * FAMILY_CHECKPOINTS[name].shared)
        for name, damage in DAMAGED
        if (damage == SOUND) == sound
    ]


@pytest.mark.parametrize(("name", "damage"), _cases(sound=True))
def test_the_references_file_of_a_family_computes_what_transformers_does(
    name: str, damage: str, judge: Judge, damaged_files: dict[tuple[str, str], Path]
) -> None:
    nats, same_top = judge.measure(damaged_files[name, damage], name)
    assert nats < MOST_NATS
    assert same_top > LEAST_SAME_TOP


@pytest.mark.parametrize(("name", "damage"), _cases(sound=False))
def test_what_a_conversion_may_get_wrong_is_seen(
    name: str, damage: str, judge: Judge, damaged_files: dict[tuple[str, str], Path]
) -> None:
    nats, _ = judge.measure(damaged_files[name, damage], name)
    assert nats > 10 * MOST_NATS
