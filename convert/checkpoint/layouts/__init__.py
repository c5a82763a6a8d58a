"""Other programs' checkpoints, each brought into Hugging Face's order: a format is a row.

    directory ── table ──▶ whose it is     by the names of its files, where there are no weights in transformers' form
              ── row   ──▶ Laid            config in Hugging Face's words, stored tensors, how they are arranged
              ──────────▶ Checkpoint      ordinary from here on: decoded by `packed`, then arranged

A row says how it is recognised (`weights`, `beside`) and has one function, `open`. What its files do not say is stated
by whoever asks (`Stated`), and never guessed. Tensors stay under the names of their files until packed ones are
decoded: the words of packing are about these; `Checkpoint.arrange` then gives the model's, under transformers' names.
"""

from convert.checkpoint.layouts.layout import NOTHING_STATED, Found, Laid, Layout, Stated
from convert.checkpoint.layouts.table import find_layout

__all__ = ["NOTHING_STATED", "Found", "Laid", "Layout", "Stated", "find_layout"]
