"""Test checkpoints: lengths of rows, so the types that are fallen back to; and how weights are stored."""

from __future__ import annotations

from typing import Final

from checkpoint_configs import llama
from checkpoint_layouts import Layout
from checkpoint_row import CheckpointRow
from checkpoint_weights import with_extremes, with_float32_norms, with_output_beside_tied, with_strided_tensors

STORAGE_ROWS: Final[tuple[CheckpointRow, ...]] = (
    # Row lengths, so the types that are fallen back to
    CheckpointRow(
        "rows-of-256",
        "no fallback: hidden and feed-forward sizes multiples of 256, untied, so Q6_K in the output matrix",
        llama(hidden_size=256, intermediate_size=512, num_attention_heads=8, num_key_value_heads=4),
    ),
    CheckpointRow(
        "rows-of-256-tied",
        "no fallback, tied, so Q6_K in the embedding",
        llama(hidden_size=256, intermediate_size=512, num_attention_heads=8, tie_word_embeddings=True),
    ),
    CheckpointRow(
        "rows-of-48",
        "rows not divisible by 32: float16 instead of any block type, in all but the feed-forward's way down",
        llama(hidden_size=48, intermediate_size=96, num_attention_heads=3, num_key_value_heads=3),
    ),
    CheckpointRow(
        "rows-of-96",
        "rows divisible by 32, not by 64 or 256",
        llama(hidden_size=96, intermediate_size=160, num_attention_heads=6, num_key_value_heads=3),
    ),
    CheckpointRow(
        "feed-forward-of-172",
        "only the feed-forward's way down has rows that no block type takes",
        llama(intermediate_size=172),
    ),
    # How weights are stored
    CheckpointRow("float32-weights", "float32", llama(torch_dtype="float32"), dtype="float32"),
    CheckpointRow(
        "float32-extremes",
        "float32 at the edges of float16: ties, denormals, the largest number",
        llama(torch_dtype="float32"),
        dtype="float32",
        change_weights=with_extremes,
    ),
    CheckpointRow("float64-weights", "float64", llama(torch_dtype="float64"), dtype="float64"),
    CheckpointRow("float8-casts", "8-bit floats that were cast, without scales", llama(), dtype="float8_e4m3fn"),
    CheckpointRow("bfloat16-weights", "bfloat16", llama(torch_dtype="bfloat16"), dtype="bfloat16"),
    CheckpointRow(
        "float32-norms",
        "two dtypes in one file",
        llama(torch_dtype="bfloat16"),
        dtype="bfloat16",
        change_weights=with_float32_norms,
    ),
    CheckpointRow(
        "safetensors-unsorted",
        "a header in an order of its own",
        llama(),
        layout=Layout.SAFETENSORS_UNSORTED,
    ),
    CheckpointRow("pytorch-bin", "pytorch_model.bin", llama(), layout=Layout.TORCH_BIN),
    CheckpointRow(
        "pytorch-bin-tied",
        "pytorch_model.bin whose output matrix shares the embedding's storage, in a tied model",
        llama(tie_word_embeddings=True),
        layout=Layout.TORCH_BIN,
        change_weights=with_output_beside_tied,
    ),
    CheckpointRow(
        "pytorch-bin-strided",
        "pytorch_model.bin with transposed tensors and slices of others",
        llama(),
        layout=Layout.TORCH_BIN,
        change_weights=with_strided_tensors,
    ),
    CheckpointRow(
        "pytorch-bin-float32",
        "pytorch_model.bin in float32",
        llama(torch_dtype="float32"),
        dtype="float32",
        layout=Layout.TORCH_BIN,
    ),
    CheckpointRow(
        "pytorch-bin-legacy",
        "pytorch_model.bin in the format before PyTorch 1.6, which cannot be mapped",
        llama(),
        layout=Layout.TORCH_BIN_LEGACY,
        refused_by_reference="RuntimeError: mmap can only be used with the zip format",
        refused_by_convert="torch files are only ever mapped; the error says how to save it again",
    ),
    CheckpointRow(
        "bare-pth",
        "a state dict in model.pth beside config.json",
        llama(),
        layout=Layout.STATE_DICT_PTH,
        twin=Layout.TORCH_BIN,
        refused_by_reference="it looks for model*.safetensors and pytorch_model*.bin; its file has no tensors",
    ),
    CheckpointRow(
        "bare-pt-training-state",
        "a training checkpoint: the state dict one level down, beside the optimizer's",
        llama(),
        layout=Layout.STATE_DICT_PT,
        twin=Layout.TORCH_BIN,
        refused_by_reference="it looks for model*.safetensors and pytorch_model*.bin; its file has no tensors",
    ),
)
