"""Reopen GGUF files and measure them: what is wrong, what is worth knowing, how far they are from the checkpoint.

structure       header, offsets, alignment, padding, length
blocks          no NaN and no infinity, in values and in blocks' scales
metadata        what loading needs
chat_template   it renders, and its control tokens are tokens
against         every tensor, decoded, beside the checkpoint's values; with `bounds`, what each type can explain
second_way      the same of some tensors, by transformers' reading of GGUF instead of our tables
limits          how much divergence is good enough
running         llama.cpp loads it; with `probabilities`: perplexity, KL divergence, the likeliest token
"""

from __future__ import annotations

from convert.verify.data import Finding, Measured, Severity, TensorError, Verification, VerifiedFile
from convert.verify.files import verify_files
from convert.verify.limits import Limit, held_to, parse_limit
from convert.verify.running import LlamaCpp, Measuring

__all__ = [
    "Finding",
    "Limit",
    "LlamaCpp",
    "Measured",
    "Measuring",
    "Severity",
    "TensorError",
    "Verification",
    "VerifiedFile",
    "held_to",
    "parse_limit",
    "verify_files",
]
