"""`--through`: every weight is bit for bit what bitsandbytes leaves of it, and the weights are those it would take."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pytest
from packed_checkpoints import assert_same, bits_of, tiny_config, write_safetensors_checkpoint

import convert
from convert.checkpoint import SourceFiles, StoredType, open_checkpoint
from convert.checkpoint.statistics import measured
from convert.dequantization.four_bit import DYNAMIC_CODE, block_absmax, nested_statistics
from convert.dequantization.through import Through, quantized_weights, take_through
from convert.dequantization.torch_sum import torch_sum
from convert.errors import UnsupportedError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import torch
    from transformers import PretrainedConfig

    from convert.checkpoint import Tensor

FOUR_BIT: Final = ("nf4", "nf4-dq", "fp4", "fp4-dq")
# Rows of whole blocks, rows that share blocks, odd lengths, fewer values than a block, more absmax than one of 256.
SHAPES: Final = ((64, 64), (128, 352), (48, 100), (31, 77), (1, 3), (70, 1), (300, 256))
DTYPES: Final = ("float16", "bfloat16", "float32")


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Have torch sum up in one part, as it does by itself up to two million values."""
    import torch

    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n_threads)


def weight(shape: tuple[int, ...], dtype: str, *, scale: float = 0.02) -> torch.Tensor:
    """Make seeded weights with outliers, a row of zeros, negative zeros and subnormal numbers among them."""
    import torch

    generator = torch.Generator().manual_seed(sum(shape))
    values = torch.randn(shape, generator=generator) * scale
    flat = values.view(-1)
    flat[::41] *= 30
    flat[5::53] *= 1e-4
    flat[7::59] = -0.0
    if shape[0] > 2:
        values[1] = 0
    return values.to(getattr(torch, dtype))


def down_and_up(value: torch.Tensor, through: str) -> torch.Tensor:
    """Quantize and dequantize with bitsandbytes; by its own formula where its CPU kernel is wrong."""
    import bitsandbytes.functional
    import torch

    if through == "int8":
        integers, absmax, _ = bitsandbytes.functional.int8_vectorwise_quant(value.to(torch.float16))
        restored: torch.Tensor = bitsandbytes.functional.int8_vectorwise_dequant(integers, absmax)
        return restored.to(value.dtype)
    kind, _, nested = through.partition("-")
    packed, state = bitsandbytes.functional.quantize_4bit(value, quant_type=kind, compress_statistics=bool(nested))
    if value.shape[-1] % 64 == 0 and kind == "nf4":  # its kernels for fp4 differ in the sign of a zero
        kernel: Callable[..., torch.Tensor] = bitsandbytes.functional.dequantize_4bit
        return kernel(packed, state)
    absmax = state.absmax
    if nested:
        absmax = bitsandbytes.functional.dequantize_blockwise(absmax, state.state2) + state.offset
    nibbles = torch.stack([packed.view(-1) >> 4, packed.view(-1) & 15], 1).view(-1)[: value.numel()]
    flat: torch.Tensor = state.code[nibbles.long()] * absmax[torch.arange(value.numel()) // 64]
    return flat.to(value.dtype).view(value.shape)


def through_ours(folder: Path, value: torch.Tensor, through: str, dtype: StoredType | None = None) -> Tensor:
    write_safetensors_checkpoint(folder, tiny_config(), {"a.weight": value})
    tensors = open_checkpoint(folder).tensors
    return take_through(tensors, Through(through), dtype or tensors["a.weight"].dtype)["a.weight"]


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("through", [*FOUR_BIT, "int8"])
def test_every_bit_is_bitsandbytes(through: str, shape: tuple[int, ...], dtype: str, tmp_path: Path) -> None:
    value = weight(shape, dtype)
    assert_same(through_ours(tmp_path / "model", value, through), down_and_up(value, through))


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("through", ["nf4-dq", "fp4-dq", "nf4"])
def test_a_tensor_of_many_slices_is_bitsandbytes_too(through: str, tmp_path: Path) -> None:
    value = weight((1100, 4096), "bfloat16")
    ours = through_ours(tmp_path / "model", value, through)
    out = np.empty((1100, 8192), np.uint8)
    with closing(SourceFiles()) as files:
        ours = measured(ours, files)
        for first in range(0, 1100, 256):
            ours.read_rows(files, first, out[first : first + 256])
    np.testing.assert_array_equal(out.view("<u2"), bits_of(down_and_up(value, through)))


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("through", [*FOUR_BIT, "int8"])
def test_a_weight_is_cast_to_the_dtype_of_loading_first(through: str, tmp_path: Path) -> None:
    import torch

    value = weight((96, 80), "float32", scale=1.0)
    ours = through_ours(tmp_path / "model", value, through, StoredType.BF16)
    assert_same(ours, down_and_up(value.to(torch.bfloat16), through))


def test_a_block_of_zeros_and_the_least_numbers_come_out_as_bitsandbytes_has_them(tmp_path: Path) -> None:
    import torch

    value = torch.zeros(4, 64)
    value[1] = 1e-42  # an absmax below the least that is divided by
    value[2, :32] = torch.finfo(torch.float32).max
    value[3] = torch.linspace(-1, 1, 64)
    for through in FOUR_BIT:
        assert_same(through_ours(tmp_path / through, value, through), down_and_up(value, through))


@pytest.mark.parametrize("n", [1, 3, 7, 8, 31, 33, 255, 4096, 5000, 16_383, 32_767])
def test_the_sum_is_torchs(n: int) -> None:
    import torch

    values = np.random.default_rng(n).random(n, np.float32)
    assert torch_sum(values) == torch.from_numpy(values).sum().numpy()


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("n", [100_000, 1_000_003])
def test_the_sum_of_many_is_that_of_one_thread(n: int) -> None:
    import torch

    values = np.random.default_rng(n).random(n, np.float32)
    assert torch_sum(values) == torch.from_numpy(values).sum().numpy()


def test_the_dynamic_type_is_bitsandbytes() -> None:
    from bitsandbytes.functional import create_dynamic_map

    np.testing.assert_array_equal(DYNAMIC_CODE.view(np.uint32), create_dynamic_map().numpy().view(np.uint32))


def test_the_absmax_in_eight_bits_is_bitsandbytes() -> None:
    import torch
    from bitsandbytes.functional import dequantize_blockwise, quantize_blockwise

    absmax = np.random.default_rng(4).gamma(2.0, size=30_000).astype(np.float32)
    statistics = nested_statistics(absmax)
    packed, state = quantize_blockwise(torch.from_numpy(absmax) - torch.from_numpy(absmax).mean(), blocksize=256)
    expected = dequantize_blockwise(packed, state) + torch.from_numpy(absmax).mean()
    np.testing.assert_array_equal(statistics.stored(absmax, 0), expected.numpy())
    np.testing.assert_array_equal(statistics.stored(absmax[300:900], 300), expected.numpy()[300:900])


def test_absmax_by_hand() -> None:
    values = np.array([-2] * 64 + [0] * 64 + [0.5, -0.25], np.float32)
    np.testing.assert_array_equal(block_absmax(values), np.array([2, 0, 0.5], np.float32))


SMALL: Final = {
    "vocab_size": 128,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


def _llama() -> PretrainedConfig:
    from transformers import LlamaConfig

    return LlamaConfig(**SMALL, attention_bias=True)


def _tied_llama() -> PretrainedConfig:
    from transformers import LlamaConfig

    return LlamaConfig(**SMALL, tie_word_embeddings=True)


def _mistral() -> PretrainedConfig:
    from transformers import MistralConfig

    return MistralConfig(**SMALL)


def _mixtral() -> PretrainedConfig:
    from transformers import MixtralConfig

    return MixtralConfig(**SMALL, num_local_experts=4)


def _qwen2_moe() -> PretrainedConfig:
    from transformers import Qwen2MoeConfig

    return Qwen2MoeConfig(**SMALL, num_experts=4, moe_intermediate_size=64, shared_expert_intermediate_size=64)


def _neox() -> PretrainedConfig:
    from transformers import GPTNeoXConfig

    return GPTNeoXConfig(**{key: value for key, value in SMALL.items() if key != "num_key_value_heads"})


def _classifier() -> PretrainedConfig:
    from transformers import LlamaConfig

    return LlamaConfig(**SMALL, num_labels=3)


MODELS: Final = {
    "llama": _llama,
    "tied": _tied_llama,
    "mistral": _mistral,
    "mixtral": _mixtral,
    "qwen2-moe": _qwen2_moe,
    "gpt-neox": _neox,
    "classifier": _classifier,
}


def _save(config: PretrainedConfig, folder: Path, *, classifier: bool = False) -> Any:  # noqa: ANN401 - a class of transformers
    import torch
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    torch.manual_seed(0)
    kind = AutoModelForSequenceClassification if classifier else AutoModelForCausalLM
    model = kind.from_config(config, dtype=torch.float16)
    model.save_pretrained(folder)
    return kind


@pytest.mark.parametrize("name", MODELS)
def test_the_weights_taken_are_those_that_transformers_quantizes(name: str, tmp_path: Path) -> None:
    import bitsandbytes
    from transformers import BitsAndBytesConfig

    kind = _save(MODELS[name](), tmp_path, classifier=name == "classifier")
    config = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")
    model = kind.from_pretrained(tmp_path, quantization_config=config)
    quantized = {
        f"{path}.weight" for path, module in model.named_modules() if isinstance(module, bitsandbytes.nn.Linear4bit)
    }
    assert quantized
    assert quantized_weights(open_checkpoint(tmp_path).tensors) == quantized


LOADED: Final[dict[str, dict[str, Any]]] = {
    "nf4": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
    "fp4-dq": {"load_in_4bit": True, "bnb_4bit_quant_type": "fp4", "bnb_4bit_use_double_quant": True},
    "int8": {"load_in_8bit": True},
}


@pytest.mark.parametrize("dtype", ["f16", "bf16"])
@pytest.mark.parametrize("through", LOADED)
def test_the_directory_holds_what_a_quantized_model_dequantizes_to(through: str, dtype: str, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    _save(_llama_of_whole_blocks(), tmp_path / "model")
    loaded_as = {"f16": torch.float16, "bf16": torch.bfloat16}[dtype]
    model = AutoModelForCausalLM.from_pretrained(
        tmp_path / "model", dtype=loaded_as, quantization_config=BitsAndBytesConfig(**LOADED[through])
    )
    expected = {name: value.to(loaded_as) for name, value in model.dequantize().state_dict().items()}
    convert.dequantize(tmp_path / "model", convert.DequantizeRequest(tmp_path / "out", through=through, dtype=dtype))
    ours = load_file(tmp_path / "out" / "model.safetensors")
    assert ours.keys() == expected.keys()
    for name, value in ours.items():
        np.testing.assert_array_equal(bits_of(value + 0.0), bits_of(expected[name] + 0.0), err_msg=name)


def _llama_of_whole_blocks() -> PretrainedConfig:
    from transformers import LlamaConfig

    return LlamaConfig(**{**SMALL, "intermediate_size": 128})


def test_a_packed_checkpoint_is_not_taken_through_again(shared_fixtures: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"the way through a packed type takes a 16-bit checkpoint, .* is packed by"):
        convert.plan_dequantize(
            shared_fixtures / "stories260K-nf4", convert.DequantizeRequest(tmp_path / "out", through="nf4")
        )


def test_transposed_layers_are_refused(tmp_path: Path) -> None:
    from transformers import GPT2Config

    _save(GPT2Config(n_embd=64, n_layer=1, n_head=4, vocab_size=128), tmp_path / "model")
    with pytest.raises(UnsupportedError, match=r"does not know the transposed layers \(`Conv1D`\) of `gpt2`"):
        convert.plan_dequantize(tmp_path / "model", convert.DequantizeRequest(tmp_path / "out", through="int8"))


def test_an_unknown_type_is_a_usage_error(tiny_llama: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="unknown type `nf3` to go through") as error:
        convert.plan_dequantize(tiny_llama, convert.DequantizeRequest(tmp_path / "out", through="nf3"))
    assert "nf4, nf4-dq, fp4, fp4-dq, int8" in str(error.value.hint)


def _overflow(values: torch.Tensor) -> None:
    values[2, 3] = 70000.0


def _nan(values: torch.Tensor) -> None:
    values[2, 3] = float("nan")


@pytest.mark.parametrize("spoil", [_overflow, _nan])
@pytest.mark.parametrize("through", ["nf4", "nf4-dq", "int8"])
def test_bad_weights_are_an_error_that_names_the_tensor(
    through: str, spoil: Callable[[torch.Tensor], None], tmp_path: Path
) -> None:
    value = weight((8, 64), "float32")
    spoil(value)
    write_safetensors_checkpoint(tmp_path / "model", tiny_config(), {"a.weight": value})
    with pytest.raises(
        convert.ConvertError, match=r"`a.weight` has 1 values NaN or infinite, the first is (inf|nan) at \[2, 3\]"
    ) as error:
        convert.dequantize(
            tmp_path / "model", convert.DequantizeRequest(tmp_path / "out", through=through, dtype="f16")
        )
    assert error.value.exit_code == 3
