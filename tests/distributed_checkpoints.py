"""Distributed checkpoints that tests read, saved by torch itself from two processes."""

from __future__ import annotations

import pickle
import subprocess
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

# What is saved, by how the model is spread: directory → the names' prefix comes with it.
#   fsdp2     fully_shard, each parameter by rows, under `model.`, with an optimizer's beside it
#   fsdp1     FullyShardedDataParallel's sharded state dict
#   columns   every matrix by columns, plain names
#   one       nothing spread: a piece for each tensor
#   megatron  Megatron's names
_PROGRAM = """
import copy, multiprocessing, sys, warnings
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, ShardedStateDictConfig, StateDictType, fully_shard
from torch.distributed.tensor import Replicate, Shard, distribute_tensor
from transformers import AutoModelForCausalLM

warnings.simplefilter("ignore")
twin, out = sys.argv[1:]

torch.set_num_threads(1)
whole = AutoModelForCausalLM.from_pretrained(twin, dtype="auto")

def work(rank):
    dist.init_process_group("gloo", init_method=f"file://{out}/group", rank=rank, world_size=2)
    mesh = init_device_mesh("cpu", (2,))
    plain, model = whole.state_dict(), copy.deepcopy(whole)
    for layer in model.model.layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    moments = {"state": {"model.norm.weight": {"exp_avg": torch.zeros(64)}}, "step": 3}
    state = {"model": model.state_dict(), "optim": moments}
    dcp.save(state, checkpoint_id=f"{out}/fsdp2/run/pytorch_model_fsdp_0")
    wrapped = FullyShardedDataParallel(copy.deepcopy(whole), device_id=torch.device("cpu"))
    config = ShardedStateDictConfig(offload_to_cpu=False)
    with FullyShardedDataParallel.state_dict_type(wrapped, StateDictType.SHARDED_STATE_DICT, config):
        dcp.save({"model": wrapped.state_dict()}, checkpoint_id=f"{out}/fsdp1/run")
    ways = {1: [Replicate()], 2: [Shard(1)]}
    columns = {name: distribute_tensor(value, mesh, ways[value.ndim]) for name, value in plain.items()}
    dcp.save(columns, checkpoint_id=f"{out}/columns/run")
    own = {name: value.t().contiguous().t() if "o_proj" in name else value for name, value in plain.items()}
    dcp.save(own, checkpoint_id=f"{out}/one/run")
    names = {"module.embedding.word_embeddings.weight": torch.zeros(4, 4)}
    names["module.decoder.layers.self_attention.linear_qkv.weight"] = torch.zeros(2, 12, 4)
    dcp.save(names, checkpoint_id=f"{out}/megatron/run")
    dist.destroy_process_group()

context = multiprocessing.get_context("fork")
processes = [context.Process(target=work, args=(rank,)) for rank in range(2)]
[process.start() for process in processes]
[process.join() for process in processes]
sys.exit(any(process.exitcode for process in processes))
"""
WAYS = ("fsdp2", "fsdp1", "columns", "one")


def write_distributed(twin: Path, out: Path) -> None:
    """Save a model of transformers in every way. Raises CalledProcessError if torch cannot."""
    out.mkdir(parents=True)
    command = [sys.executable, "-W", "ignore", "-c", _PROGRAM, str(twin), str(out)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def changed(directory: Path, change: Callable[[Any], object]) -> Path:
    """Change what `.metadata` says: `change` gets torch's own object."""
    path = directory / ".metadata"
    metadata = pickle.loads(path.read_bytes())
    change(metadata)
    path.write_bytes(pickle.dumps(metadata))
    return directory
