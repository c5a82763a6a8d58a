"""Run by itself: loads a checkpoint with transformers, answers a prompt, reads a text, and prints the figures as JSON.

Imports nothing of this project: its memory is what transformers takes.
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
import warnings
from typing import Any


def measure(asked: dict[str, Any]) -> dict[str, Any]:
    """Measure: seconds, tokens, bytes; the perplexity of the second halves of windows, as llama-perplexity's."""
    import torch  # noqa: PLC0415 - counted in the seconds
    import transformers  # noqa: PLC0415

    begun = time.monotonic()
    packing = transformers.BitsAndBytesConfig(**_packing(asked["packing"], torch)) if asked["packing"] else None
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = asked["dtype"] if asked["dtype"] == "auto" else getattr(torch, asked["dtype"])
    how: dict[str, Any] = {"dtype": dtype, "local_files_only": True, "device_map": device}
    if packing is not None:
        how["quantization_config"] = packing
    model = transformers.AutoModelForCausalLM.from_pretrained(asked["model"], **how).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(asked["model"], local_files_only=True)
    ids = tokenizer(asked["prompt"], return_tensors="pt").input_ids.to(device)
    with torch.inference_mode():
        prompt_s = _timed(lambda: model(ids))
        n_new, generation_s = _generate(model, ids, asked["n_new"])
    seconds = time.monotonic() - begun
    return {
        "n_prompt": ids.shape[1],
        "prompt_s": prompt_s,
        "n_new": n_new,
        "generation_s": generation_s,
        "seconds": seconds,
        "nbytes": model.get_memory_footprint(),
        "n_weights": sum(_n_values(p) for p in model.parameters()),
        "perplexity": _perplexity(model, asked["windows"], device),
        "device_memory": torch.cuda.max_memory_allocated() if device == "cuda" else 0,
    }


def _packing(packing: dict[str, Any], torch: Any) -> dict[str, Any]:  # noqa: ANN401
    return packing | ({"bnb_4bit_compute_dtype": torch.bfloat16} if "load_in_4bit" in packing else {})


def _n_values(parameter: Any) -> int:  # noqa: ANN401
    state = getattr(parameter, "quant_state", None)
    return int(math.prod(state.shape)) if state is not None else int(parameter.numel())


def _timed(call: Any) -> float:  # noqa: ANN401
    begun = time.monotonic()
    call()
    return time.monotonic() - begun


def _generate(model: Any, ids: Any, n_new: int) -> tuple[int, float]:  # noqa: ANN401
    begun = time.monotonic()
    out = model.generate(ids, max_new_tokens=n_new, min_new_tokens=n_new, do_sample=False, pad_token_id=0)
    return out.shape[1] - ids.shape[1], time.monotonic() - begun


def _perplexity(model: Any, windows: str | None, device: str) -> float | None:  # noqa: ANN401
    import torch  # noqa: PLC0415

    if windows is None:
        return None
    with open(windows, encoding="utf-8") as file:  # noqa: PTH123 - nothing of this project here
        tokens = torch.tensor(json.load(file), device=device)
    n_ctx = tokens.shape[1]
    total, first = 0.0, n_ctx // 2
    with torch.inference_mode():
        for window in tokens:
            logs = model(window[None]).logits[0].float().log_softmax(-1)[first : n_ctx - 1]
            total -= float(logs.gather(1, window[first + 1 :, None]).sum())
    return math.exp(total / (len(tokens) * (n_ctx - 1 - first)))


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    os.environ["HF_HUB_OFFLINE"] = "1"
    try:
        found = measure(json.loads(sys.argv[1]))
    except Exception as error:  # noqa: BLE001 - whatever the libraries raise, they are asked from elsewhere
        found = {"error": f"{type(error).__name__}: {error}".splitlines()[0]}
    print(json.dumps(found))  # noqa: T201 - its answer
