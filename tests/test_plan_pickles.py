"""A plan is data: another process that gets it, pickled, makes the same files.

Decoders of packed weights are pickled by every test that reads them with `assert_same`, or converts with `outputs_of`.
"""

from __future__ import annotations

import pickle
import shutil
import subprocess
import sys
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Final

import pytest
import torch
from bitsandbytes_checkpoints import PackedAs, pack_4bit
from checkpoints import write_checkpoint
from gguf_models import SmallModel, small_imatrix, write_small_model
from group_packing import awq_gemm_module, gptq_module, make_codes, packed_and_plain
from peft_adapters import write_adapter, write_base

from convert.checkpoint.statistics import lacking
from convert.cluster import carry_out_units, finish, make_job, share
from convert.cluster.pickled import dumps, loads
from convert.conversion import convert_one, plan_all, plan_quantize
from convert.dequantization import DequantizeRequest, plan_dequantize
from convert.model import model_request
from convert.plan import OutputRequest
from convert.quant_mix import quantize_options
from convert.stream import Writing, carry_out, with_statistics

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from convert.cluster import Job
    from convert.plan import Plan

    Packed = tuple[dict[str, torch.Tensor], torch.Tensor]
    Plans = tuple[Plan, ...]

TYPES: Final = "f16,q8_0"
LINEAR: Final = ["q_proj", "down_proj"]


def of_checkpoint(name: str) -> Callable[[Path], Plans]:
    return lambda folder: (plan_all(write_checkpoint(name, folder), OutputRequest(folder / "out", types=TYPES)),)


def of_packed(section: Mapping[str, Any], pack: Callable[[str, tuple[int, int]], Packed]) -> Callable[[Path], Plans]:
    def plans(folder: Path) -> Plans:
        packed, _ = packed_and_plain(folder, section, pack)
        return (plan_all(packed, OutputRequest(folder / "out", types=TYPES)),)

    return plans


def in_4_bits(name: str, shape: tuple[int, int], *, double: bool) -> Packed:
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(1)).half()
    return pack_4bit(f"{name}.weight", weight, PackedAs("nf4", double=double)), weight


def in_8_bit_floats(name: str, shape: tuple[int, int]) -> Packed:
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(torch.float8_e4m3fn)
    return {f"{name}.weight": weight, f"{name}.weight_scale_inv": torch.tensor(0.5)}, weight.half()


def in_gptq(name: str, shape: tuple[int, int]) -> Packed:
    codes = make_codes(shape, act_order=True)
    return gptq_module(name, codes), codes.dequantized()


def in_awq(name: str, shape: tuple[int, int]) -> Packed:
    codes = make_codes(shape)
    return awq_gemm_module(name, codes), codes.dequantized()


def merged(**lora: Any) -> Callable[[Path], Plans]:  # noqa: ANN401 - as for peft
    def plans(folder: Path) -> Plans:
        base = write_base(folder / "base")
        adapter = write_adapter(base, folder / "adapter", **{"r": 2, "target_modules": LINEAR, **lora})
        return (plan_all(model_request(base, merge=adapter), OutputRequest(folder / "out", types=TYPES)),)

    return plans


def of_gguf(folder: Path) -> Plans:
    convert_one(write_checkpoint("Meta-Llama-3-8B", folder), folder / "model.gguf", type="bf16")
    return (plan_quantize(folder / "model.gguf", OutputRequest(folder / "out", types="q8_0,q4_0")),)


def with_importance(folder: Path) -> Plans:
    model = SmallModel(n_experts=4)
    options = quantize_options(imatrix=small_imatrix(model, folder / "imatrix.gguf"), prune_layers="1")
    source = write_small_model(model, folder / "model.gguf")
    return (plan_quantize(source, OutputRequest(folder / "out", types="q4_k_m,q6_k", options=options)),)


def dequantized(through: str | None) -> Callable[[Path], Plans]:
    def plans(folder: Path) -> Plans:
        base = write_base(folder / "base")
        adapter = write_adapter(base, folder / "adapter", r=2, target_modules=["embed_tokens", *LINEAR], use_dora=True)
        return plan_dequantize(
            model_request(base, merge=adapter),
            DequantizeRequest(folder / "out", through=through, max_shard_size="200KB"),
        ).plans

    return plans


NF4: Final = {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}
GPTQ: Final = {"quant_method": "gptq", "bits": 4, "group_size": 32, "desc_act": True, "sym": False}
AWQ: Final = {"quant_method": "awq", "bits": 4, "group_size": 32, "version": "gemm", "zero_point": True}
FP8: Final = {"quant_method": "fp8", "activation_scheme": "dynamic", "modules_to_not_convert": ["lm_head"]}

PLANS: Final[Mapping[str, Callable[[Path], Plans]]] = {
    "plain": of_checkpoint("Llama-3.1-8B-Instruct"),
    "sharded": of_checkpoint("Llama-2-70b-hf"),
    "mixtral": of_checkpoint("Mixtral-8x7B-v0.1"),
    "torch": of_checkpoint("pytorch-bin"),
    "nf4": of_packed(NF4, lambda name, shape: in_4_bits(name, shape, double=False)),
    "nf4-dq": of_packed(NF4, lambda name, shape: in_4_bits(name, shape, double=True)),
    "gptq": of_packed(GPTQ, in_gptq),
    "awq": of_packed(AWQ, in_awq),
    "fp8": of_packed(FP8, in_8_bit_floats),
    "lora": merged(),
    "dora": merged(use_dora=True),
    "dora of embeddings": merged(use_dora=True, target_modules=["embed_tokens", "lm_head"]),
    "gguf": of_gguf,
    "importance": with_importance,
    "dequantize": dequantized(None),
    "dequantize through nf4-dq": dequantized("nf4-dq"),
}
PROGRAM: Final = """
import pickle, sys
from convert.stream import carry_out
for plan in pickle.load(sys.stdin.buffer):
    carry_out(plan)
"""


def hashes(plans: Plans) -> dict[str, str]:
    outputs = [output.path for plan in plans for output in plan.outputs]
    return {path.name: sha256(path.read_bytes()).hexdigest() for path in outputs}


@pytest.mark.parametrize("name", PLANS)
def test_another_process_makes_the_same_files(name: str, tmp_path: Path) -> None:
    plans = PLANS[name](tmp_path)
    sent = pickle.dumps(plans)
    for plan in plans:
        carry_out(plan)
    ours = hashes(plans)
    shutil.rmtree(tmp_path / "out")
    subprocess.run([sys.executable, "-c", PROGRAM], input=sent, check=True)
    assert hashes(plans) == ours
    for plan in plans:
        carry_out_cut_up(plan)
    assert hashes(plans) == ours


def carry_out_cut_up(plan: Plan) -> None:
    """Carry a plan out as two workers do, who know of it what `dumps` says."""
    job: Job = loads(dumps(make_job(plan, Writing(force=True), unit_nbytes=50_000)).data)
    for part in (2, 1):
        carry_out_units(job, share(job, part, 2))
    finish(job)


def test_a_plan_takes_its_statistics_with_it(tmp_path: Path) -> None:
    """Measured here, they are not measured again there."""
    for plan in PLANS["dequantize through nf4-dq"](tmp_path):
        sent: Plan = pickle.loads(pickle.dumps(with_statistics(plan)))
        assert lacking(sent.tasks) == []
        carry_out(plan)
        assert [output.written for output in carry_out(sent).outputs] == [False] * len(plan.outputs)
