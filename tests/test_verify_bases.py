"""What `verify` measures divergence from: packed and merged checkpoints as transformers and peft compute them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from bitsandbytes_checkpoints import KINDS, save_with_transformers
from peft_adapters import load_base, peft_merged, quiet, write_adapter, write_base

from convert.adapter import MergeRequest
from convert.model import ModelRequest, open_model
from convert.verify.with_transformers import load_network

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

IDS = [[1, 40, 300, 17, 999, 5, 5, 64]]


def _logits(network: Any) -> NDArray[np.float32]:  # noqa: ANN401 - transformers publishes no types
    import torch

    with torch.inference_mode():
        values: NDArray[np.float32] = network.eval()(torch.tensor(IDS)).logits.float().numpy()
    return values


@pytest.mark.parametrize("kind", ["nf4", "nf4-dq", "fp4", "int8"])
def test_a_packed_checkpoint_computes_as_its_dequantized_model(kind: str, tmp_path: Path) -> None:
    # Rows of whole blocks: where they are not, bitsandbytes' CPU kernel decodes something else.
    packed = save_with_transformers(KINDS[kind], tmp_path / "packed", hidden_size=64, intermediate_size=128)
    with quiet():
        from transformers import AutoModelForCausalLM

        dequantized = AutoModelForCausalLM.from_pretrained(packed).dequantize().float()
        np.testing.assert_allclose(
            _logits(load_network(open_model(ModelRequest(packed)))), _logits(dequantized), rtol=1e-4, atol=1e-5
        )


@pytest.mark.parametrize(
    ("mixtral", "lora"),
    [
        (False, {"target_modules": ["q_proj", "v_proj"]}),
        (True, {"target_modules": ["q_proj", "v_proj"]}),
        (False, {"target_modules": ["embed_tokens", "v_proj"], "use_dora": True}),
    ],
    ids=["llama", "mixtral", "dora of embeddings"],
)
def test_a_merged_checkpoint_computes_as_peft_merges_it(mixtral: bool, lora: dict[str, Any], tmp_path: Path) -> None:
    more: dict[str, Any] = {"num_local_experts": 2, "num_experts_per_tok": 2} if mixtral else {}
    base = write_base(tmp_path / "base", mixtral=mixtral, **more)
    adapter = write_adapter(base, tmp_path / "adapter", r=4, **lora)
    merged = peft_merged([(adapter, 1.0)], base, tmp_path / "merged")
    with quiet():
        ours, theirs = load_network(open_model(ModelRequest(base, (MergeRequest(adapter),)))), load_base(merged)
        np.testing.assert_allclose(_logits(ours), _logits(theirs), rtol=1e-4, atol=1e-5)
        assert np.abs(_logits(ours) - _logits(load_base(base))).max() > 1e-3
