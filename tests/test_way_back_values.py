"""The way back, tensor by tensor and token by token: decoded blocks are ggml's, tokenizers split as before."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pytest
import safetensors.numpy
from checkpoint_tokenizers import SHARED_TOKENIZERS, TINY_LLAMA
from codec_cases import GRID_TYPES, QUANTIZED_TYPES
from family_checkpoints import write_family_checkpoint
from family_making import FamilyRow, save_family_checkpoint
from gguf import GGUFWriter
from test_codec_ggml import ggml_bytes

import convert
from convert.checkpoint import SourceFiles
from convert.checkpoint.columns import Columns
from convert.checkpoint.undone import Outline, undone
from convert.checkpoint.views import Blocks, Constant, Rows, Shifted, Swapped, Transposed, concatenated
from convert.codec import CODECS
from convert.gguf_file import read_gguf
from convert.model import read_gguf_model
from convert.tokenizer.back import tokenizer_files
from convert.tokenizer.rules import BYTE_LEVEL_TOKENIZER, LLAMA_TOKENIZER

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from convert.checkpoint import Tensor
    from convert.tokenizer import TokenizerRule

    Make = Callable[[Tensor], Tensor]

TYPES: Final = (*QUANTIZED_TYPES, *GRID_TYPES)
HIDDEN: Final = 256
TEXTS: Final = (
    "Once upon a time, there was 1 little girl\n\n  who said: don't!",
    "  two spaces, ümläuts, 漢字 and 1234567 — it's\tover…",
)


def _with_types(plain: Path, out: Path, libggml_base: Path) -> dict[str, np.ndarray[Any, np.dtype[np.float32]]]:
    """Write a file in which each layer's way up is of another type; give what ggml decodes of these."""
    file, library = read_gguf(plain), ctypes.CDLL(str(libggml_base))
    writer = GGUFWriter(out, "llama")
    for entry, _ in file.entries:
        if entry.key != "general.architecture":
            writer.add_key_value(
                entry.key,
                list(entry.value) if isinstance(entry.value, tuple) else entry.value,
                entry.type,
                entry.item_type,
            )
    wanted, raw = {}, plain.read_bytes()
    for info in file.tensors:
        data = np.frombuffer(raw[info.offset : info.offset + info.nbytes], np.uint8)
        kind = info.type
        if info.name.endswith("ffn_up.weight"):
            layer = int(info.name.split(".")[1])
            kind, rows = TYPES[layer], np.random.default_rng(layer).standard_normal(info.shape, np.float32)
            data = ggml_bytes(libggml_base, rows, kind, np.ones(HIDDEN, np.float32))
            decoded = np.empty(info.shape, np.float32)
            function = getattr(library, f"dequantize_row_{kind.name.lower().replace('_k', '_K')}")
            function.argtypes, function.restype = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64), None
            function(data.ctypes.data, decoded.ctypes.data, decoded.size)
            wanted[f"model.layers.{layer}.mlp.up_proj.weight"] = decoded
        width = info.shape[-1] // CODECS[kind].block_size * CODECS[kind].type_size
        writer.add_tensor(info.name, data.reshape(*info.shape[:-1], width), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return wanted


@pytest.mark.llama_cpp
def test_every_type_of_blocks_becomes_the_floats_that_ggml_decodes(libggml_base: Path, tmp_path: Path) -> None:
    config = {"hidden_size": HIDDEN, "intermediate_size": 32, "num_attention_heads": 2, "num_key_value_heads": 1}
    row = FamilyRow("types", "", "LlamaForCausalLM", {**config, "num_hidden_layers": len(TYPES), "vocab_size": 1024})
    save_family_checkpoint(row, tmp_path / "model")
    convert.convert_one(tmp_path / "model", tmp_path / "f16.gguf", type="f16")
    wanted = _with_types(tmp_path / "f16.gguf", tmp_path / "types.gguf", libggml_base)
    convert.dequantize(tmp_path / "types.gguf", tmp_path / "back")
    got = safetensors.numpy.load_file(tmp_path / "back" / "model.safetensors")
    assert len(wanted) == len(TYPES)
    assert [name for name, rows in wanted.items() if got[name].tobytes() != rows.tobytes()] == []
    assert got["model.layers.0.mlp.down_proj.weight"].dtype == np.float16


def _tokenizer_of(name: str, rule: TokenizerRule, tmp_path: Path) -> Any:  # noqa: ANN401 - tokenizers has no types
    from tokenizers import Tokenizer

    convert.convert_one(write_family_checkpoint(name, tmp_path), tmp_path / "model.gguf", type="f16")
    files = tokenizer_files(read_gguf_model(tmp_path / "model.gguf").values, rule)
    return Tokenizer.from_str(files["tokenizer.json"].decode())


@pytest.mark.shared
@pytest.mark.parametrize(("name", "folder"), [("pythia-narrow", "gptneox"), ("falcon-40b", "falcon")])
def test_a_byte_level_tokenizer_splits_as_the_original_does(name: str, folder: str, tmp_path: Path) -> None:
    from tokenizers import Tokenizer

    original = Tokenizer.from_file(str(SHARED_TOKENIZERS / folder / "tokenizer.json"))
    ours = _tokenizer_of(name, BYTE_LEVEL_TOKENIZER, tmp_path)
    for text in TEXTS:
        wanted = original.encode(text, add_special_tokens=False).ids
        assert ours.encode(text, add_special_tokens=False).ids == wanted
        assert ours.decode(wanted) == original.decode(wanted)


def test_pieces_with_scores_split_as_sentencepiece_does(tmp_path: Path) -> None:
    from sentencepiece import SentencePieceProcessor

    original = SentencePieceProcessor(str(TINY_LLAMA / "tokenizer.model"))
    ours = _tokenizer_of("SmolLM3-narrow", LLAMA_TOKENIZER, tmp_path)
    again = SentencePieceProcessor()
    files = tokenizer_files(read_gguf_model(tmp_path / "model.gguf").values, LLAMA_TOKENIZER)
    again.LoadFromSerializedProto(files["tokenizer.model"])
    for text in TEXTS:
        assert ours.encode(text, add_special_tokens=False).ids == original.encode(text) == again.encode(text)


def _qkv(tensor: Tensor) -> Tensor:
    blocks = (Blocks(tensor, tensor.name, (6, 4), 6, first, 2) for first in (0, 2, 4))
    return concatenated(tensor.name, tuple(blocks))


def _keys(tensor: Tensor) -> Tensor:
    return Transposed(Blocks(tensor, tensor.name, (3, 4, 4), 6, 0, 4), tensor.name)


def _values(tensor: Tensor) -> Tensor:
    return Blocks(tensor, tensor.name, (3, 2, 4), 6, 4, 2)


@pytest.mark.parametrize(
    "makes",
    [
        (lambda tensor: tensor,),
        (lambda tensor: Swapped(tensor, "", 2, 3),),
        (lambda tensor: Transposed(tensor, ""),),
        (lambda tensor: Shifted(tensor, "", 1.0),),
        (lambda tensor: Swapped(Shifted(tensor, "", 1.0), "", 3, 2, 3),),
        (_qkv,),
        (_keys, _values),
        (lambda tensor: Columns(tensor, "", 2, 0, 1), lambda tensor: Columns(tensor, "", 2, 1, 1)),
        (
            lambda tensor: Transposed(Columns(tensor, "", 4, 0, 2), ""),
            lambda tensor: Transposed(Columns(tensor, "", 4, 2, 2), ""),
        ),
    ],
)
def test_what_views_make_of_a_tensor_is_undone(makes: tuple[Make, ...]) -> None:
    stored = Rows(Constant("x", np.arange(72, dtype="<f4").tobytes()), "x", (18, 4))
    outline = Outline("x", (18, 4))
    again = undone(outline, [(make(outline), make(stored)) for make in makes])
    assert again.shape == (18, 4)
    out = np.empty((18, 16), np.uint8)
    files = SourceFiles()
    again.read_rows(files, 0, out)
    assert out.view("<f4").tolist() == np.arange(72.0).reshape(18, 4).tolist()
    again.read_rows(files, 5, out[:7])
    assert out[:7].view("<f4").tolist() == np.arange(20.0, 48).reshape(7, 4).tolist()
