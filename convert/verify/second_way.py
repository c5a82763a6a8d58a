"""A second judge of a file's tensors: what transformers' own reader of GGUF makes of them, beside the checkpoint's.

`against` takes names and the order of rows from the tables that the file was made by, and cannot see a fault in these.
Here both come from transformers (`modeling_gguf_pytorch_utils`), and from a table of Meta's names that knows nothing of
the other. The first and the last block and what stands outside of blocks are looked at: a table is wrong everywhere.
"""

from __future__ import annotations

import re
import warnings
from contextlib import closing
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from gguf import GGML_QUANT_SIZES, MODEL_ARCH_NAMES, GGMLQuantizationType, quants

from convert.architecture.family import n_layers
from convert.checkpoint import SourceFiles, matrix_shape
from convert.checkpoint.statistics import measured
from convert.errors import UnsupportedError
from convert.gguf_file import scale_name
from convert.model import float_values
from convert.verify.data import Finding, note, problem
from convert.verify.transformers_names import in_halves, transformers_name
from convert.verify.with_transformers import config_without_packing

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from convert.checkpoint import Tensor
    from convert.codec.contract import F32Array
    from convert.gguf_file import GGUFFile, TensorInfo
    from convert.model import Model
    from convert.verify.reading import OpenFile

CHECK: Final = "second way"

_MOST_VALUES: Final = 1 << 25  # of one tensor: seconds, not minutes
_MOST_OFF: Final = 0.9  # RMSE in standard deviations; 2 bits leave 0.5, three values 0.8, another order of rows 1.4
_ROUNDING: Final = 1e-5  # of 1 + a norm's weight, and 1 taken off again
_DECODED: Final = frozenset(quants._type_traits) | {GGMLQuantizationType.F32, GGMLQuantizationType.F16}  # noqa: SLF001 - no other list
_AS_STORED: Final = frozenset({"qwen2", "qwen3"})  # of which no row is moved, so transformers has no processor
_BLOCK: Final = re.compile(r"blk\.(\d+)\.")


@dataclass(frozen=True, slots=True)
class SecondWay:
    """What transformers knows of a model, and where the checkpoint has it.

    processor: transformers' own of the architecture. names: in GGUF → in transformers. stored: in transformers → the
    checkpoint's. n_heads: of `q` and of `k`.
    """

    processor: Any
    names: Mapping[str, str]
    stored: Mapping[str, Tensor]
    last_block: int
    n_heads: Mapping[str, int]

    def check(self, header: GGUFFile, file: OpenFile) -> Iterator[Finding]:
        """Yield a problem for each tensor that is not the checkpoint's."""
        names = {info.name for info in header.tensors}  # transformers knows of no scales beside weights
        compared = [info for info in header.tensors if self._is_compared(info) and scale_name(info.name) not in names]
        if not compared:
            yield note(CHECK, "no tensor has a name that transformers knows: none was compared a second way")
        with closing(SourceFiles()) as sources:
            for info in compared:
                yield from _judged(info, self._in_transformers(info, file), self._wanted(info, sources))

    def _is_compared(self, info: TensorInfo) -> bool:
        block = _BLOCK.match(info.name)
        return (
            (block is None or int(block[1]) in (0, self.last_block))
            and prod(info.shape) <= _MOST_VALUES
            and self.names.get(info.name) in self.stored
            and info.type in _DECODED
            and "_exps." not in info.name  # which transformers puts into its model on its own
        )

    def _in_transformers(self, info: TensorInfo, file: OpenFile) -> F32Array:
        decoded = quants.dequantize(file.read(info.offset, info.nbytes).reshape(-1, _row_nbytes(info)), info.type)
        decoded = np.asarray(decoded, np.float32).reshape(info.shape)
        if self.names[info.name] == info.name:  # the checkpoint has it under GGUF's own name
            return decoded
        more: dict[str, Any] = {"tensor_key_mapping": self.names, "parsed_parameters": {"tensors": {}}}
        weights: F32Array = self.processor.process(weights=decoded, name=info.name, **more).weights
        return weights

    def _wanted(self, info: TensorInfo, sources: SourceFiles) -> F32Array:
        tensor = self.stored[self.names[info.name]]
        values = float_values(measured(tensor, sources), sources, range(matrix_shape(tensor.shape)[0]))
        return in_halves(tensor.name, values.reshape(tensor.shape), self.n_heads)


def _row_nbytes(info: TensorInfo) -> int:
    block_size, type_size = GGML_QUANT_SIZES[info.type]
    return int(info.shape[-1] // block_size * type_size)


def _judged(info: TensorInfo, got: F32Array, wanted: F32Array) -> Iterator[Finding]:
    if _own_shape(got) != _own_shape(wanted):
        yield problem(CHECK, f"tensor `{info.name}` is {got.shape} to transformers, the checkpoint's is {wanted.shape}")
        return
    error = np.sqrt(np.mean(np.square(got.reshape(-1) - wanted.reshape(-1), dtype=np.float64)))
    spread = float(np.std(wanted, dtype=np.float64))
    if not error <= _MOST_OFF * spread + _ROUNDING:
        yield problem(
            CHECK,
            f"tensor `{info.name}`, as transformers reads GGUF, is off the checkpoint's by {error / (spread or 1):.3g} "
            "standard deviations: its rows are in another order, or it is another tensor",
        )


def _own_shape(values: F32Array) -> tuple[int, ...]:
    return tuple(size for size in values.shape if size != 1)


def open_second_way(model: Model) -> SecondWay:
    """Ask transformers what it makes of a model's GGUF; UnsupportedError where it has no answer."""
    arch = MODEL_ARCH_NAMES[model.family.arch]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            processor, names, config = _ask(model, arch)
    except (ImportError, AttributeError, OSError, ValueError, KeyError, TypeError, NotImplementedError) as error:
        raise UnsupportedError(f"transformers reads no GGUF of this model: {error}".splitlines()[0]) from None
    stored = {transformers_name(name): tensor for name, tensor in model.tensors.items()}
    stored |= {f"transformer.{name}": tensor for name, tensor in stored.items()}  # a BloomModel's are without
    names |= {name: name for name in model.tensors if name in names}
    heads = config["num_attention_heads"] if "num_attention_heads" in config else config["n_head"]
    n_heads = {"q": heads, "k": config.get("num_key_value_heads") or heads}
    return SecondWay(processor, names, stored, n_layers(model.hyperparameters) - 1, n_heads)


def _ask(model: Model, arch: str) -> tuple[Any, dict[str, str], dict[str, Any]]:
    import torch  # noqa: PLC0415 - hundreds of megabytes, only here
    from transformers import AutoModelForCausalLM  # noqa: PLC0415
    from transformers import modeling_gguf_pytorch_utils as reader  # noqa: PLC0415

    if arch not in reader.TENSOR_PROCESSORS and arch not in _AS_STORED:
        raise NotImplementedError(arch)
    config = config_without_packing(model)
    values: dict[str, Any] = config.to_dict()
    with torch.device("meta"):
        network = AutoModelForCausalLM.from_config(config)
    processor = reader.TENSOR_PROCESSORS.get(arch, reader.TensorProcessor)(config=values)
    return processor, reader.get_gguf_hf_weights_map(network, processor, model_type=arch), values
