"""Small seeded checkpoints, one for every shape of model and every kind of file that `convert` reads.

    from checkpoints import CHECKPOINTS, write_checkpoint
    directory = write_checkpoint("vicuna-7b-v1.5", tmp_path)        # writes tmp_path / "vicuna-7b-v1.5"

A row's name is the directory's name, because that feeds the metadata (`general.name`, `general.basename`, ...). Configs
are spelled as the models that they are named after were published, made small. Weights depend on nothing but the row's
and the tensor's name: sums of integers from NumPy's Philox, with zero rows, outliers and a negative zero put in. The
tokenizer is `tests/data/tiny-llama`'s, which the reference takes. It knows byte-level BPE ones only by a hash of what a
published vocabulary makes of one text: such rows use the shared fixtures, or are refused by it.

    python tests/checkpoints.py ROOT [NAME ...]                     writes all, or these
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from checkpoint_configs import ABSENT
from checkpoint_layouts import WRITERS, Layout
from checkpoint_rows_llama import LLAMA_ROWS
from checkpoint_rows_mistral import MISTRAL_ROWS
from checkpoint_rows_naming import NAMING_ROWS
from checkpoint_rows_side_files import SIDE_FILE_ROWS
from checkpoint_rows_storage import STORAGE_ROWS
from checkpoint_tokenizers import TOKENIZER_CONFIG
from checkpoint_weights import make_weights, tensor_shapes

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch
    from checkpoint_row import CheckpointRow

    Weights = dict[str, torch.Tensor]


def write_checkpoint(name: str, root: Path, *, layout: Layout | None = None) -> Path:
    """Write the row called `name` as the directory root / name, anew, and return that; `layout` replaces the row's."""
    row, folder = CHECKPOINTS[name], root / name
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    config = {key: value for key, value in row.config.items() if value is not ABSENT}
    row.tokenizer(folder)
    for file_name, content in {"config.json": config, **_tokenizer_config(row), **row.files}.items():
        text = content if isinstance(content, str) else json.dumps(content, indent=2, ensure_ascii=False) + "\n"
        (folder / file_name).write_text(text, encoding="utf-8")
    weights = row.change_weights(make_weights(name, tensor_shapes(config), row.dtype))
    WRITERS[layout or row.layout](weights, folder)
    return folder


def _tokenizer_config(row: CheckpointRow) -> dict[str, Any]:
    merged = {**TOKENIZER_CONFIG, **row.tokenizer_config}
    kept = {key: value for key, value in merged.items() if value is not ABSENT}
    return {"tokenizer_config.json": kept} if kept else {}


ROWS: Final[tuple[CheckpointRow, ...]] = (*LLAMA_ROWS, *STORAGE_ROWS, *MISTRAL_ROWS, *SIDE_FILE_ROWS, *NAMING_ROWS)
CHECKPOINTS: Final[Mapping[str, CheckpointRow]] = {row.name: row for row in ROWS}
assert len(CHECKPOINTS) == len(ROWS), "two rows have one name"


def main() -> None:
    """Write the rows asked for."""
    parser = argparse.ArgumentParser(description="write the test checkpoints")
    parser.add_argument("root", type=Path)
    parser.add_argument("names", nargs="*", metavar="NAME")
    arguments = parser.parse_args()
    for name in arguments.names or CHECKPOINTS:
        sys.stdout.write(f"{write_checkpoint(name, arguments.root)}\n")


if __name__ == "__main__":
    main()
