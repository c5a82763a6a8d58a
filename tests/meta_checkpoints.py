"""Small seeded checkpoints as Meta publishes Llama's: parts of each matrix in consolidated.NN.pth, and params.json."""

from __future__ import annotations

import base64
import json
import shutil
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from checkpoint_tokenizers import TINY_LLAMA, write_byte_level_bpe

from convert.tokenizer.alphabet import BYTE_OF_CHAR

if TYPE_CHECKING:
    from pathlib import Path

    import torch

COLUMNS = ("wo.weight", "w2.weight")


@dataclass(frozen=True)
class MetaRow:
    """A checkpoint. version: Llama's. columns: whether embeddings are cut into columns, as before Llama 3."""

    name: str
    version: str
    n_parts: int
    columns: bool = True
    params: dict[str, Any] = field(default_factory=dict)

    @property
    def is_ranked(self) -> bool:
        return self.version.startswith("3")


PARAMS: dict[str, Any] = {"dim": 64, "n_layers": 2, "n_heads": 4, "norm_eps": 1e-5, "multiple_of": 32, "vocab_size": -1}
LLAMA_3: dict[str, Any] = {"rope_theta": 500000.0, "n_kv_heads": 2, "ffn_dim_multiplier": 1.3, "vocab_size": 854}
ROWS = (
    MetaRow("llama-1", "1", 1, params={"norm_eps": 1e-6}),
    MetaRow("llama-2", "2", 2, params={"n_kv_heads": 2}),
    MetaRow("llama-3", "3", 2, columns=False, params=LLAMA_3),
    MetaRow("llama-3-one", "3", 1, params=LLAMA_3),
)


def params_of(row: MetaRow) -> dict[str, Any]:
    return PARAMS | row.params


def write_meta(row: MetaRow, directory: Path) -> Path:
    """Write a row's files anew into a directory."""
    import torch

    directory.mkdir(parents=True)
    params = params_of(row)
    whole = _weights(params, 854 if row.is_ranked else 1024)
    for number in range(row.n_parts):
        part = {name: _part(name, tensor, number, row) for name, tensor in whole.items()}
        torch.save(part, directory / f"consolidated.{number:02d}.pth")
    (directory / "params.json").write_text(json.dumps(params))
    write_ranks(directory) if row.is_ranked else shutil.copy(TINY_LLAMA / "tokenizer.model", directory)
    return directory


def write_ranks(directory: Path) -> None:
    """Write tokenizer.model as Llama 3 has it, of a small vocabulary."""
    scratch = directory / "scratch"
    scratch.mkdir()
    write_byte_level_bpe(scratch)
    vocabulary = json.loads((scratch / "tokenizer.json").read_text())["model"]["vocab"]
    shutil.rmtree(scratch)
    tokens = [bytes(BYTE_OF_CHAR[char] for char in text) for text in sorted(vocabulary, key=vocabulary.__getitem__)]
    lines = [f"{base64.b64encode(token).decode()} {rank}\n" for rank, token in enumerate(tokens)]
    (directory / "tokenizer.model").write_text("".join(lines))


def _weights(params: dict[str, Any], n_tokens: int) -> dict[str, torch.Tensor]:
    import torch

    torch.manual_seed(3)
    dim, n_kv = params["dim"], params.get("n_kv_heads") or params["n_heads"]
    inner, keys = 224 if "ffn_dim_multiplier" in params else 192, dim // params["n_heads"] * n_kv
    shapes: dict[str, tuple[int, ...]] = {"tok_embeddings.weight": (n_tokens, dim), "norm.weight": (dim,)}
    for layer in range(params["n_layers"]):
        attention, feed = f"layers.{layer}.attention", f"layers.{layer}.feed_forward"
        shapes |= {f"{attention}.wq.weight": (dim, dim), f"{attention}.wk.weight": (keys, dim)}
        shapes |= {f"{attention}.wv.weight": (keys, dim), f"{attention}.wo.weight": (dim, dim)}
        shapes |= {f"{feed}.w1.weight": (inner, dim), f"{feed}.w2.weight": (dim, inner)}
        shapes |= {f"{feed}.w3.weight": (inner, dim), f"layers.{layer}.attention_norm.weight": (dim,)}
        shapes |= {f"layers.{layer}.ffn_norm.weight": (dim,)}
    shapes |= {"output.weight": (n_tokens, dim), "rope.freqs": (8,)}
    return {name: (torch.randn(shape) * 0.05).to(torch.bfloat16) for name, shape in shapes.items()}


def _part(name: str, tensor: torch.Tensor, number: int, row: MetaRow) -> torch.Tensor:
    if tensor.ndim == 1:
        return tensor.clone()
    in_columns = name.endswith(COLUMNS) or (row.columns and name.startswith("tok_"))
    return tensor.chunk(row.n_parts, int(in_columns))[number].clone()
