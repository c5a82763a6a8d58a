"""Meta's original Llama 1 to 3.3: `consolidated.NN.pth`, `params.json`, `tokenizer.model`.

Each file has a part of every matrix, as one process of a tensor-parallel run held it:

    wq, wk, wv, w1, w3, output    rows, one after the other
    wo, w2                        columns, side by side
    tok_embeddings                columns in Llama 1 and 2, rows since 3: their shape tells
    norms                         copies

Query and key rows are in pairs, as llama.cpp rotates them; transformers rotates halves. params.json says neither how
long a text may be nor by which factor a rope is scaled: those of published models are in a table, others are asked for.
Source: transformers 4.45.2, models/llama/convert_llama_weights_to_hf.py; meta-llama/llama-models, models/sku_list.py.
"""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from convert.checkpoint.columns import side_by_side
from convert.checkpoint.json_file import read_json
from convert.checkpoint.layouts.layout import (
    Found,
    Laid,
    Layout,
    Renames,
    Stated,
    in_order,
    not_said,
    numbered,
    renamed,
)
from convert.checkpoint.regular_file import of_each
from convert.checkpoint.source import StoredType
from convert.checkpoint.torch_file import read_torch_file
from convert.checkpoint.views import Rows, Swapped, concatenated
from convert.errors import CheckpointError, ConfigError, Remedy
from convert.fields import Fields
from convert.shown import shown

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from convert.checkpoint.source import Tensor, TensorSource

_FILE: Final = re.compile(r"consolidated\.(\d{2,3})\.pth")
META_NAMES: Final[Renames] = (
    (r"tok_embeddings\.weight", "model.embed_tokens.weight"),
    (r"norm\.weight", "model.norm.weight"),
    (r"output\.weight", "lm_head.weight"),
    (r"layers\.(\d+)\.attention\.w([qkvo])\.(weight|bias)", r"model.layers.\1.self_attn.\2_proj.\3"),
    (r"layers\.(\d+)\.feed_forward\.w1\.weight", r"model.layers.\1.mlp.gate_proj.weight"),
    (r"layers\.(\d+)\.feed_forward\.w2\.weight", r"model.layers.\1.mlp.down_proj.weight"),
    (r"layers\.(\d+)\.feed_forward\.w3\.weight", r"model.layers.\1.mlp.up_proj.weight"),
    (r"layers\.(\d+)\.attention_norm\.weight", r"model.layers.\1.input_layernorm.weight"),
    (r"layers\.(\d+)\.ffn_norm\.weight", r"model.layers.\1.post_attention_layernorm.weight"),
)
_ROWS: Final = re.compile(r"layers\.\d+\.(attention\.w[qkv]|feed_forward\.w[13])\.weight|output\.weight")
_COLUMNS: Final = re.compile(r"layers\.\d+\.(attention\.wo|feed_forward\.w2)\.weight")
_HEADS: Final = re.compile(r"model\.layers\.\d+\.self_attn\.([qk])_proj\.(?:weight|bias)")
_ROTARY_TABLE: Final = "rope.freqs"  # computed when a model is loaded


@dataclass(frozen=True, slots=True)
class Published:
    """What params.json leaves out: the context length, a scaled rope's factor, whether the output is the embeddings."""

    context: int
    factor: float | None = None
    is_tied: bool = False


# (dim, n_layers, n_kv_heads, norm_eps, whether the rope is scaled) → the rest, as config.json of the same model has it.
_PUBLISHED: Final[Mapping[tuple[int, int, int | None, float, bool], Published]] = {
    (4096, 32, None, 1e-6, False): Published(2048),  # Llama 7B
    (5120, 40, None, 1e-6, False): Published(2048),  # 13B
    (6656, 60, None, 1e-6, False): Published(2048),  # 30B
    (8192, 80, None, 1e-5, False): Published(2048),  # 65B
    (4096, 32, None, 1e-5, False): Published(4096),  # Llama 2 7B
    (5120, 40, None, 1e-5, False): Published(4096),  # 13B
    (8192, 80, 8, 1e-5, False): Published(4096),  # 70B; with Llama 3's base _LLAMA_3
    (4096, 32, 8, 1e-5, False): Published(8192),  # Llama 3 8B
    (4096, 32, 8, 1e-5, True): Published(131072, 8.0),  # 3.1 8B
    (8192, 80, 8, 1e-5, True): Published(131072, 8.0),  # 3.1 and 3.3 70B
    (16384, 126, 8, 1e-5, True): Published(131072, 8.0),  # 3.1 405B
    (2048, 16, 8, 1e-5, True): Published(131072, 32.0, is_tied=True),  # 3.2 1B
    (3072, 28, 8, 1e-5, True): Published(131072, 32.0, is_tied=True),  # 3.2 3B
}
_CODE_LLAMA_THETA, _LLAMA_3_THETA = 1_000_000.0, 500_000.0
_CODE_LLAMA, _LLAMA_3 = Published(16384), Published(8192)


def open_meta(found: Found) -> Laid:
    """Read params.json and where the tensors lie, and check that the files are parts of one model."""
    numbered(found.paths, _FILE)
    files = of_each(found.paths, read_torch_file)
    parts = [{source.name: source for source in file.sources} for file in files]
    for path, part in zip(found.paths, parts, strict=True):
        if odd := sorted(part.keys() ^ parts[0].keys()):
            raise CheckpointError(
                f"{shown(found.paths[0])} and {shown(path)} are not parts of one model: only one has {shown(odd[0])}"
            )
    sources = {_stored_name(path, name, len(parts)): source for path, part in zip(found.paths, parts, strict=True)
               for name, source in part.items() if name != _ROTARY_TABLE}  # fmt: skip
    params = _read_params(found.beside)
    config, tied = _config(params, found, parts)
    return Laid(config, sources, partial(_arrange, params=params, is_tied=tied))


def _stored_name(path: Path, name: str, n_parts: int) -> str:
    return name if n_parts == 1 else f"{path.stem}/{name}"


@dataclass(frozen=True, slots=True)
class _Params(Fields):
    """params.json. path: of the file. Raises ConfigError for a value that is missing, of another type, or absurd."""

    path: Path = field(kw_only=True)

    @property
    def theta(self) -> float:
        return self.number("rope_theta") or 10000.0

    @property
    def head_dim(self) -> int:
        dim, n_heads = self.size("dim"), self.size("n_heads")
        if dim % n_heads or dim // n_heads % 2:
            raise ConfigError(f"{self.where} says {n_heads} heads and a width of {dim}: not an even number for each")
        return dim // n_heads

    @property
    def n_kv_heads(self) -> int:
        return self.optional_size("n_kv_heads") or self.size("n_heads")

    @property
    def feed_forward(self) -> int:
        """The width inside a feed-forward block: two thirds of 4 dim, by a factor, rounded up."""
        multiple = self.optional_size("multiple_of") or 256
        width = int((self.number("ffn_dim_multiplier") or 1.0) * int(8 * self.size("dim") / 3))
        return -(-width // multiple) * multiple


def _read_params(path: Path) -> _Params:
    return _Params(read_json(path), shown(path), path=path)


def _config(
    params: _Params, found: Found, parts: list[dict[str, TensorSource]]
) -> tuple[Mapping[str, Any] | ConfigError, bool]:
    if found.stated.config is not None:
        config = read_json(found.stated.config)
        return config, config.get("tie_word_embeddings") is True
    try:
        known = published(found.beside, found.stated)
    except ConfigError as error:
        return error, False
    vocab_size = _n_tokens(params, parts)
    _check_shapes(params, parts)
    return _words(params, known, vocab_size=vocab_size), known.is_tied


def published(path: Path, stated: Stated) -> Published:
    """Tell what params.json leaves out: what is stated, or what is known of a model of this shape; else ConfigError."""
    params = _read_params(path)
    scaled, theta = params.flag("use_scaled_rope"), params.theta
    shape = (params.size("dim"), params.size("n_layers"), params.optional_size("n_kv_heads"), _epsilon(params), scaled)
    known = _PUBLISHED.get(shape)
    if known is not None and not scaled:
        known = {_CODE_LLAMA_THETA: _CODE_LLAMA, _LLAMA_3_THETA: _LLAMA_3}.get(theta, known)
    if known is None and scaled:
        raise not_said("by which factor its rope is scaled, and no published model has its shape", params.path,
                       Remedy.GIVE_CONFIG)  # fmt: skip
    context = stated.context
    if known is None and context is None:
        raise not_said("how long a text may be, and no published model has its shape", params.path,
                       Remedy.GIVE_CONTEXT, Remedy.GIVE_CONFIG)  # fmt: skip
    known = known or Published(0)
    return known if context is None else Published(context, known.factor, known.is_tied)


def _epsilon(params: _Params) -> float:
    epsilon = params.number("norm_eps")
    if epsilon is None:
        raise ConfigError(f"{params.where} lacks `norm_eps`")
    return epsilon


def _words(params: _Params, known: Published, *, vocab_size: int) -> dict[str, Any]:
    is_llama_3 = params.theta == _LLAMA_3_THETA
    config: dict[str, Any] = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "hidden_size": params.size("dim"),
        "intermediate_size": params.feed_forward,
        "max_position_embeddings": known.context,
        "num_attention_heads": params.size("n_heads"),
        "num_hidden_layers": params.size("n_layers"),
        "num_key_value_heads": params.n_kv_heads,
        "rms_norm_eps": _epsilon(params),
        "rope_theta": params.theta,
        "tie_word_embeddings": known.is_tied,
        "vocab_size": vocab_size,
        "bos_token_id": vocab_size - 256 if is_llama_3 else 1,
        "eos_token_id": vocab_size - 255 if is_llama_3 else 2,
    }
    if known.factor is not None:
        config["rope_scaling"] = {
            "rope_type": "llama3",
            "factor": known.factor,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        }
    return config


def _n_tokens(params: _Params, parts: list[dict[str, TensorSource]]) -> int:
    """Count the embeddings: params.json of Llama 1 and 2 says -1."""
    dim, n = params.size("dim"), len(parts)
    shapes = [part["tok_embeddings.weight"].shape for part in parts if "tok_embeddings.weight" in part]
    if not shapes or len(shapes[0]) != 2:  # noqa: PLR2004 - rows and columns
        raise CheckpointError(f"{shown(params.path.parent)} has no matrix `tok_embeddings.weight`")
    if shapes[0][1] not in (dim, dim // n):
        wide = f"{shapes[0][1]} columns" if n == 1 else f"{shapes[0][1]} columns, one of {n} parts"
        raise ConfigError(f"{params.where} says a width of {dim}, `tok_embeddings.weight` has {wide}")
    n_rows = shapes[0][0] * n if shapes[0][1] == dim else shapes[0][0]
    said = params.values.get("vocab_size")
    if said not in (None, -1, n_rows):
        raise ConfigError(f"{params.where} says a vocabulary of {shown(said)}, `tok_embeddings.weight` has {n_rows}")
    return n_rows


def _check_shapes(params: _Params, parts: list[dict[str, TensorSource]]) -> None:
    """Hold the two sizes that config.json will not have as params.json says them against the first layer's."""
    width = len(parts)
    wanted = {"attention.wk": params.n_kv_heads * params.head_dim, "feed_forward.w1": params.feed_forward}
    for name, n_rows in wanted.items():
        source = parts[0].get(f"layers.0.{name}.weight")
        if source is not None and source.shape != (n_rows // width, params.size("dim")):
            raise ConfigError(
                f"tensor {shown(source.name)} in {shown(source.path)} has shape {source.shape}, {params.where}"
                f" says {(n_rows // width, params.size('dim'))}"
            )


def _arrange(tensors: Mapping[str, Tensor], *, params: _Params, is_tied: bool) -> dict[str, Tensor]:
    """Give whole tensors under transformers' names, query and key rows in halves."""
    gathered: dict[str, list[Tensor]] = defaultdict(list)
    for name, tensor in tensors.items():
        gathered[name.rpartition("/")[2]].append(tensor)
    if is_tied:
        gathered.pop("output.weight", None)
    return in_order(
        with_halves(renamed(name, META_NAMES), _whole(name, tuple(parts), params.size("dim")), params.head_dim)
        for name, parts in gathered.items()
    )


def with_halves(name: str, tensor: Tensor, head_dim: int) -> Tensor:
    """Call a tensor by transformers' name; of query and key put each head's pairs of rows into halves."""
    is_rotated = _HEADS.fullmatch(name) is not None and tensor.shape[0] % head_dim == 0
    return Swapped(tensor, name, head_dim // 2, 2) if is_rotated else Rows(tensor, name, tensor.shape)


def _whole(name: str, parts: tuple[Tensor, ...], dim: int) -> Tensor:
    """Put the parts of a tensor together. CheckpointError if they contradict each other."""
    first = parts[0]
    if odd := next((part for part in parts if (part.shape, part.dtype) != (first.shape, first.dtype)), None):
        raise CheckpointError(
            f"parts of tensor {shown(name)} have shapes {first.shape} and {odd.shape},"
            f" types {_type(first)} and {_type(odd)}: wanted alike"
        )
    in_columns = _COLUMNS.fullmatch(name) or (name == "tok_embeddings.weight" and first.shape[-1] != dim)
    if len(parts) == 1 or len(first.shape) < 2 or not (in_columns or _ROWS.fullmatch(name) or "embed" in name):  # noqa: PLR2004
        return first
    return side_by_side(name, parts) if in_columns else concatenated(name, parts)


def _type(tensor: Tensor) -> str:
    return tensor.dtype.value if isinstance(tensor.dtype, StoredType) else tensor.dtype.name


META: Final = Layout("Meta", _FILE, "params.json", open_meta)
