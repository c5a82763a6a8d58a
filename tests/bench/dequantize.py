"""`python -m tests.bench.dequantize NF4 OUT`: a 16-bit checkpoint of a packed one, the way people take today.

Load with transformers, `model.dequantize()`, save. With transformers 5.23 `save_pretrained` of a model that was loaded
packed ends in NotImplementedError, since it would pack it again; `save_original_format=False` is the way around. (And
`dequantize()` after `save_pretrained` of the same model ends in "Invalid device string: 'float16'".)
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path


def main(model: Path, out: Path) -> None:
    """Dequantize a model directory into another."""
    from transformers import AutoModelForCausalLM

    loaded = AutoModelForCausalLM.from_pretrained(model, device_map="cpu")
    loaded.dequantize()
    loaded.save_pretrained(out, save_original_format=False)
    (out / "generation_config.json").unlink(missing_ok=True)  # the packed one has none
    shutil.copyfile(model / "tokenizer.model", out / "tokenizer.model")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
