"""What each type is good for, in a few words: a table, from the largest to the smallest.

The words are llama.cpp's experience in short: `llama-quantize --help` gives perplexities of Llama 3 8B for most of them
(tools/quantize/quantize.cpp, QUANT_OPTIONS @ 0c1e570), tools/quantize/README.md has the rest.
"""

from __future__ import annotations

from typing import Final

PURPOSES: Final = {
    "F32": "every bit of the checkpoint; for further conversion, not for running",
    "BF16": "the checkpoint's own precision where that is bfloat16; for further quantizing, or a GPU with bfloat16",
    "F16": "half precision; the reference to measure the others against",
    "Q8_0": "no difference that can be measured; fast everywhere",
    "Q6_K": "very near to Q8_0 at three quarters of its size",
    "Q5_K_M": "hardly any loss; for a little more memory than Q4_K_M",
    "Q5_K_S": "as Q5_K_M, slightly smaller",
    "Q5_1": "an older type; Q5_K_M is better at its size",
    "Q5_0": "an older type; Q5_K_S is better at its size",
    "Q4_1": "an older type; Q4_K_M is better at its size",
    "Q4_K_M": "the usual choice: small loss, good speed",
    "Q4_K_S": "as Q4_K_M, smaller, with a little more loss",
    "IQ4_NL": "near to Q4_K_S; repacked by llama.cpp for fast CPUs (ARM and AVX)",
    "Q4_0": "an older type; llama.cpp repacks it for fast prompts on ARM and AVX CPUs",
    "IQ4_XS": "smaller than Q4_K_S and nearly as good; slower on a CPU",
    "MXFP4_MOE": "experts in MXFP4, all else in Q8_0; for models that were trained so",
    "Q3_K_L": "for little memory; Q4 is better wherever it fits",
    "Q3_K_M": "for little memory, with a visible loss",
    "IQ3_M": "for little memory; better than Q3_K_M at its size, slower on a CPU",
    "IQ3_S": "better than Q3_K_S at its size, slower on a CPU",
    "Q3_K_S": "a visible loss; IQ3_S is better at its size",
    "IQ3_XS": "between IQ3_S and IQ3_XXS",
    "IQ3_XXS": "the smallest of three bits, with an importance matrix; usable for large models",
    "Q2_K": "much loss; only where nothing larger fits",
    "Q2_K_S": "much loss; only where nothing larger fits",
    "IQ2_M": "better than Q2_K at its size; for large models that must be small",
    "IQ2_S": "for large models that must be small",
    "IQ2_XS": "for large models that must be small",
    "IQ2_XXS": "very much loss; for the largest models only",
    "IQ1_M": "desperate: only to load what fits in no other way",
    "IQ1_S": "desperate: only to load what fits in no other way",
    "TQ2_0": "for models trained with ternary weights (BitNet, TriLM)",
    "TQ1_0": "for models trained with ternary weights, packed tighter and slower than TQ2_0",
    "Q2_0": "for models trained with weights of two bits",
    "Q1_0": "for models trained with weights of one bit",
}


def purpose(label: str) -> str:
    """Say what a type is good for; nothing of one that is not known. label: also a publisher's (`UD-Q4_K_XL`)."""
    bare = label.upper().removeprefix("UD-")
    if bare in PURPOSES:
        return PURPOSES[bare]
    stem = bare.rpartition("_")[0]
    near = next((name for name in (f"{stem}_M", stem) if name in PURPOSES), None)
    return f"its publisher's own mix, near to {near}" if near else ""
