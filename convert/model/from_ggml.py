"""A file of llama.cpp before GGUF as a GGUFModel: its blocks as they lie there, its vocabulary in GGUF's words.

What such a file does not say, the norms' epsilon and how long a text may be, is asked for.
Source: convert_llama_ggml_to_gguf.py, GGMLToGGUF @ 0c1e570.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from gguf import MODEL_ARCH, MODEL_ARCH_NAMES, GGUFWriter, TokenType, get_tensor_name_map

from convert.checkpoint import StoredBlocks
from convert.errors import CheckpointError, PlanError, Remedy
from convert.gguf_file import ALIGNMENT, KeyValue, encoded_entry, read_ggml
from convert.gguf_file.ggml import FILE_TYPES
from convert.model.gguf_model import GGUFModel
from convert.shown import shown

if TYPE_CHECKING:
    from pathlib import Path

    from convert.checkpoint import Stated
    from convert.gguf_file.ggml import GGMLFile

_SPECIAL: Final = (
    (b"<unk>", TokenType.UNKNOWN), (b"<s>", TokenType.CONTROL), (b"</s>", TokenType.CONTROL),
)  # fmt: skip
_LAST_BYTE: Final = 258
_BOUNDARY: Final = "▁".encode()


def read_ggml_model(path: Path, stated: Stated) -> GGUFModel:
    """Read a file's headers. stated: eps, context, and gqa, which is only held against the file.

    Raises CheckpointError for a broken file, or one whose epsilon or context nobody states; UnsupportedError for blocks
    that are no longer read; PlanError for tensors that are not Llama's.
    """
    file = read_ggml(path)
    if stated.eps is None:
        raise CheckpointError(f"{shown(path)} does not say the epsilon of its norms", remedies=(Remedy.GIVE_EPSILON,))
    if stated.context is None:
        raise CheckpointError(f"{shown(path)} does not say how long a text may be", remedies=(Remedy.GIVE_CONTEXT,))
    writer = GGUFWriter(None, MODEL_ARCH_NAMES[MODEL_ARCH.LLAMA])
    _add_parameters(writer, file, stated.eps, stated.context, _n_kv_heads(file, stated.gqa))
    _add_vocabulary(writer, file)
    entries = (KeyValue(key, value.value, value.type, value.sub_type) for key, value in writer.kv_data[0].items())
    note = f"{file.version}, older than GGUF: its blocks stay as they are where the type is `copy`"
    return GGUFModel(path, "llama", tuple(map(encoded_entry, entries)), _tensors(file), ALIGNMENT, None, notes=(note,))


def _tensors(file: GGMLFile) -> tuple[tuple[str, StoredBlocks], ...]:
    names = get_tensor_name_map(MODEL_ARCH.LLAMA, file.n_layer)
    found = [(names.get_name(info.name, try_suffixes=(".weight", ".bias")), info) for info in file.tensors]
    if odd := next((info.name for name, info in found if name is None), None):
        raise PlanError(f"tensor {shown(odd)} in {shown(file.path)} has no place in a Llama of {file.n_layer} layers")
    return tuple(
        (name, StoredBlocks(name, file.path, info.offset, info.nbytes, info.shape, info.type))
        for name, info in found
        if name is not None
    )


def _shape(file: GGMLFile, name: str) -> tuple[int, ...]:
    shape = next((info.shape for info in file.tensors if info.name == name), None)
    if shape is None or len(shape) != 2 or shape[1] != file.n_embd:  # noqa: PLR2004 - rows and columns
        raise CheckpointError(
            f"tensor {shown(name)} in {shown(file.path)} has shape {shape}, wanted (…, {file.n_embd})"
        )
    return shape


def _n_kv_heads(file: GGMLFile, gqa: int | None) -> int:
    head_dim = file.n_embd // file.n_head
    n_heads, rest = divmod(_shape(file, "layers.0.attention.wk.weight")[0], head_dim)
    if rest or n_heads == 0 or file.n_head % n_heads:
        raise CheckpointError(f"{shown(file.path)} has {file.n_head} heads of {head_dim}, which its keys do not fit")
    if gqa is not None and gqa * n_heads != file.n_head:
        raise CheckpointError(
            f"{file.n_head} heads in groups of {gqa} were stated, {shown(file.path)} has keys for {n_heads}"
        )
    return n_heads


def _add_parameters(writer: GGUFWriter, file: GGMLFile, eps: float, context: int, n_kv_heads: int) -> None:
    writer.add_name(file.path.name)
    writer.add_description(f"converted from legacy {file.version} {FILE_TYPES[file.file_type]} format")
    writer.add_file_type(file.file_type)
    writer.add_context_length(context)
    writer.add_embedding_length(file.n_embd)
    writer.add_block_count(file.n_layer)
    writer.add_feed_forward_length(_shape(file, "layers.0.feed_forward.w1.weight")[0])
    writer.add_rope_dimension_count(file.n_embd // file.n_head)
    writer.add_head_count(file.n_head)
    writer.add_head_count_kv(n_kv_heads)
    writer.add_layer_norm_rms_eps(eps)


def _add_vocabulary(writer: GGUFWriter, file: GGMLFile) -> None:
    if len(file.vocabulary) < len(_SPECIAL):
        raise CheckpointError(f"{shown(file.path)} has {len(file.vocabulary)} tokens, wanted three and more")
    tokens, types = zip(*(_token(number, text) for number, (text, _) in enumerate(file.vocabulary)), strict=True)
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_scores([score for _, score in file.vocabulary])
    writer.add_token_types(types)
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)


def _token(number: int, text: bytes) -> tuple[bytes, int]:
    """Give a token as GGUF has it: bytes spelled out, spaces as word boundaries."""
    if number < len(_SPECIAL):
        special, kind = _SPECIAL[number]
        return special, int(kind)
    if not text:
        return text, int(TokenType.CONTROL)
    if number <= _LAST_BYTE and len(text) == 1:
        return f"<0x{text[0]:02X}>".encode(), int(TokenType.BYTE)
    return text.replace(b" ", _BOUNDARY), int(TokenType.NORMAL)
