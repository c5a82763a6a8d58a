"""What each type costs: figures measured of several files of one model, side by side.

size      bytes, bits a weight, the key-value cache                      from the file
weights   every tensor, decoded, beside the reference's                  by `verify`
answers   perplexity, KL divergence, the likeliest token                 by llama-perplexity, streamed
speed     tokens a second, seconds for a prompt, peak memory             by llama-bench and `main`
others    the same prompt and text by transformers and bitsandbytes      in a process of its own

`measure` gives a Report, a value. How it looks: a table (`terminal`), and here JSON, Markdown and a page.
"""

from __future__ import annotations

from convert.report.data import Answers, Missing, Report, Size, Speed, Subject, TensorCost, Weights
from convert.report.measure import Measuring, ReportRequest, measure

__all__ = [
    "Answers",
    "Measuring",
    "Missing",
    "Report",
    "ReportRequest",
    "Size",
    "Speed",
    "Subject",
    "TensorCost",
    "Weights",
    "measure",
]
