"""The other side: the same checkpoint and prompt by transformers and bitsandbytes, in a process of its own."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, Final

from convert.errors import ConvertError
from convert.report.data import Missing, Size, Speed, Subject
from convert.report.running import N_ANSWERED, weighed_answer

# Each as transformers is asked for it: the dtype, and what BitsAndBytesConfig takes.
PRECISIONS: Final[dict[str, tuple[str, dict[str, Any]]]] = {
    "f32": ("float32", {}),
    "f16": ("float16", {}),
    "bf16": ("bfloat16", {}),
    "int8": ("bfloat16", {"load_in_8bit": True}),
    "nf4": ("bfloat16", {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}),
    "nf4-dq": ("bfloat16", {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True}),
    "fp4": ("bfloat16", {"load_in_4bit": True, "bnb_4bit_quant_type": "fp4"}),
    "fp4-dq": ("bfloat16", {"load_in_4bit": True, "bnb_4bit_quant_type": "fp4", "bnb_4bit_use_double_quant": True}),
    "packed": ("auto", {}),  # as the checkpoint is: GPTQ, AWQ, and the like
}
_WORKER: Final = Path(__file__).with_name("transformers_worker.py")


def other_subject(model: Path, precision: str, prompt: str, windows: Path | None) -> Subject:
    """Measure a checkpoint in one precision; what fails is said in the result. windows: the text's tokens, as JSON."""
    dtype, packing = PRECISIONS[precision]
    asked = {"model": str(model), "dtype": dtype, "packing": packing, "prompt": prompt, "n_new": N_ANSWERED}
    asked["windows"] = None if windows is None else str(windows)
    subject = Subject(f"transformers, {precision}", precision)
    try:
        said, memory = weighed_answer([sys.executable, _WORKER, json.dumps(asked)])
        found = json.loads(said.splitlines()[-1])
    except ConvertError as error:
        found = {"error": error.message}
    if "error" in found:
        return Subject(subject.label, precision, missing=(Missing("everything", found["error"]),))
    n_weights = found["n_weights"]
    size = Size(found["nbytes"], n_weights, found["nbytes"] * 8 / max(n_weights, 1), {})
    speed = Speed(
        found["n_prompt"],
        found["n_prompt"] / found["prompt_s"],
        0.0,
        found["n_new"],
        found["n_new"] / found["generation_s"],
        0.0,
        found["seconds"],
        found["device_memory"] or memory,
    )
    return Subject(subject.label, precision, size=size, speed=speed, perplexity=found["perplexity"])
