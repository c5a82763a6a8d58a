"""LitGPT's checkpoints: `lit_model.pth`, a state dict or one under `model`, beside `model_config.yaml`.

    attn.qkv     rows of Q, K and V, one after the other
    attn.attn    of older versions: for each group of queries its rows of Q, then of K and V
    lm_head      always there; of a tied model it is the embeddings once more

`config.json` of the base counts, where LitGPT has kept it; else model_config.yaml's in transformers' words.
"""

from __future__ import annotations

import re
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from convert.checkpoint.json_file import read_json
from convert.checkpoint.layouts.distributed import open_distributed
from convert.checkpoint.layouts.layout import Found, Laid, Layout, in_order, renamed
from convert.checkpoint.layouts.litgpt_families import Fused, LitFamily, config_words, lit_family
from convert.checkpoint.layouts.same_values import hold_the_same
from convert.checkpoint.layouts.yaml_file import read_yaml
from convert.checkpoint.torch_file import read_torch_file
from convert.checkpoint.views import Blocks, Rows, concatenated
from convert.checkpoint.wrapped_names import unwrap_names
from convert.errors import CheckpointError, ConfigError
from convert.fields import Fields
from convert.shown import shown

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from convert.checkpoint.source import Arrange, Tensor

_QKV: Final = re.compile(r"transformer\.h\.(\d+)\.attn\.(qkv|attn)\.(weight|bias)")
_GATE_UP: Final = re.compile(r"transformer\.h\.(\d+)\.mlp\.fc_([12])\.weight")
_HEAD, _EMBEDDINGS = "lm_head.weight", "transformer.wte.weight"


def open_litgpt(found: Found) -> Laid:
    """Read model_config.yaml and where the tensors lie."""
    c = Fields(read_yaml(found.beside), shown(found.beside))
    family = lit_family(c)
    stored = _stored(found)
    tensors = stored.arrange(stored.sources)
    config, is_tied = _config(found, c, family, tensors)
    _check_sizes(c, tensors, found)
    arrange = partial(_arrange, whole=stored.arrange, c=c, family=family, drops_head=is_tied)
    return replace(stored, config=config, arrange=arrange)


def _stored(found: Found) -> Laid:
    """Read where the tensors lie under LitGPT's names: in a file, or in a folder, as processes saved it together."""
    path = found.paths[0]
    if path.is_dir():
        return open_distributed(replace(found, beside=path / ".metadata"))
    file = read_torch_file(path)
    sources, notes = unwrap_names({source.name: source for source in file.sources})
    return Laid({}, sources, dict, (*file.notes, *notes))


def _config(
    found: Found, c: Fields, family: LitFamily, tensors: Mapping[str, Tensor]
) -> tuple[Mapping[str, Any], bool]:
    """Give the config, and whether the output is the embeddings: what the weights say, where it may be so."""
    head, embeddings = tensors.get(_HEAD), tensors.get(_EMBEDDINGS)
    own = found.directory / "config.json"
    path = found.stated.config or (own if own.is_file() else None)
    stated = None if path is None else read_json(path)
    may_tie = stated is None or stated.get("tie_word_embeddings") is not False
    is_tied = may_tie and (head is None or (embeddings is not None and hold_the_same(head, embeddings)))
    if stated is None:
        return config_words(c, family, is_tied=is_tied), is_tied
    unties = not is_tied and bool(stated.get("tie_word_embeddings"))
    return stated | ({"tie_word_embeddings": False} if unties else {}), is_tied


def _check_sizes(c: Fields, tensors: Mapping[str, Tensor], found: Found) -> None:
    """Hold model_config.yaml against the first tensors: what config.json says is held against all of them later."""
    wanted = {_EMBEDDINGS: (c.size("padded_vocab_size"), c.size("n_embd")),
              "transformer.h.0.attn.qkv.weight": (sum(rows_of_qkv(c)), c.size("n_embd"))}  # fmt: skip
    for name, shape in wanted.items():
        if name in tensors and tensors[name].shape != shape:
            raise ConfigError(f"tensor {shown(name)} has shape {tensors[name].shape}, {c.where} says {shape}")
    if _EMBEDDINGS not in tensors:
        raise CheckpointError(f"{shown(found.paths[0])} has no {shown(_EMBEDDINGS)}: it is no LitGPT model")


def rows_of_qkv(c: Fields) -> tuple[int, int, int]:
    """Count the rows of Q, K and V that model_config.yaml says."""
    n_heads = c.size("n_head")
    head_dim = c.optional_size("head_size") or c.size("n_embd") // n_heads
    n_groups = c.optional_size("n_query_groups") or n_heads
    if n_heads % n_groups:
        raise ConfigError(f"{c.where} says {n_groups} groups of {n_heads} heads, wanted groups of one size")
    return n_heads * head_dim, n_groups * head_dim, n_groups * head_dim


def _arrange(
    tensors: Mapping[str, Tensor], *, whole: Arrange, c: Fields, family: LitFamily, drops_head: bool
) -> dict[str, Tensor]:
    return in_order(_arranged(whole(tensors), c, family, drops_head=drops_head))


def _arranged(tensors: Mapping[str, Tensor], c: Fields, family: LitFamily, *, drops_head: bool) -> Iterator[Tensor]:
    for name, tensor in tensors.items():
        if name == _HEAD and drops_head:
            continue
        if (match := _QKV.fullmatch(name)) is not None:
            yield from _attention(match, tensor, c, family)
        elif family.gate_up is not None and (match := _GATE_UP.fullmatch(name)) is not None:
            if match[2] == "1":
                both = (tensor, tensors.get(name.replace("fc_1", "fc_2"), tensor))
                yield concatenated(match.expand(family.gate_up), both)
        else:
            yield Rows(tensor, renamed(name, family.renames), tensor.shape)


def _attention(match: re.Match[str], tensor: Tensor, c: Fields, family: LitFamily) -> Iterator[Tensor]:
    """Give query, key and value as transformers' checkpoint has them."""
    rows = rows_of_qkv(c)
    if tensor.shape[:1] != (sum(rows),):
        raise ConfigError(f"tensor {shown(match[0])} has shape {tensor.shape}, {c.where} says {sum(rows)} rows")
    is_grouped, name = match[2] == "attn", match.expand(family.qkv) + match[3]
    if family.fused is Fused.APART:
        yield from (_part(tensor, name.format(which), place, c, is_grouped=is_grouped)
                    for place, which in enumerate("qkv"))  # fmt: skip
    elif is_grouped is (family.fused is Fused.GROUPED):
        yield Rows(tensor, name, tensor.shape)
    elif is_grouped:
        yield concatenated(name, tuple(_part(tensor, name, place, c, is_grouped=True) for place in range(3)))
    else:
        yield concatenated(name, tuple(_by_group(tensor, name, rows, c)))


def _part(tensor: Tensor, name: str, place: int, c: Fields, *, is_grouped: bool) -> Tensor:
    """Take Q, K or V out of the tensor of all."""
    rows = rows_of_qkv(c)
    shape = (rows[place], *tensor.shape[1:])
    if not is_grouped:
        return Rows(tensor, name, shape, sum(rows[:place]))
    n_groups = c.optional_size("n_query_groups") or c.size("n_head")
    of_group = [n // n_groups for n in rows]
    return Blocks(tensor, name, shape, sum(of_group), sum(of_group[:place]), of_group[place])


def _by_group(tensor: Tensor, name: str, rows: tuple[int, int, int], c: Fields) -> Iterator[Tensor]:
    """Yield the rows of Q, K and V of one group of queries after the other."""
    n_groups = c.optional_size("n_query_groups") or c.size("n_head")
    for group in range(n_groups):
        for place, n_rows in enumerate(rows):
            size = n_rows // n_groups
            yield Rows(tensor, name, (size, *tensor.shape[1:]), sum(rows[:place]) + group * size)


LITGPT: Final = Layout("LitGPT", re.compile(r"lit_model\.pth"), "model_config.yaml", open_litgpt)
