"""Fit an adapter to a base: which tensor each of its own changes, and everything that does not match, all at once."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import numpy as np

from convert.adapter.adapter_files import FLOATS
from convert.adapter.base_names import BaseNames, is_embedding, is_head
from convert.adapter.experts import FusedExperts, find_experts
from convert.adapter.low_rank import AddedBias, ColumnDora, Dora, Factor, LowRank, ReplacedRows
from convert.adapter.patterns import bounded_time, pattern_for
from convert.adapter.targets import EMBEDDINGS, is_all_linear, is_targeted, targeted_parameter
from convert.adapter.tensor_names import Part
from convert.shown import shown

if TYPE_CHECKING:
    from collections.abc import Mapping

    from convert.adapter.config import AdapterConfig
    from convert.adapter.low_rank import Change
    from convert.checkpoint import Tensor, TensorSource

    Parts = Mapping[Part, TensorSource]

# The modules of transformers' Conv1D, whose weight is (in, out): GPT-2 and its like.
_CONV1D: Final = ("c_attn", "c_proj", "c_fc", "q_attn")


@dataclass(slots=True)
class Fit:
    """What fitting found. changes: by the base's tensor names, in order. problems: one line each."""

    changes: dict[str, list[Change]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    n_modules: int = 0


def fit_modules(
    config: AdapterConfig, modules: Mapping[str, Parts], base: Mapping[str, Tensor], *, weight: float
) -> Fit:
    """Turn the parts of each module into changes of the base's tensors.

    base: with whole tensors of adapters already in place. weight: what low-rank changes are multiplied by.
    """
    fitting = _Fitting(config, BaseNames(base), weight)
    with bounded_time():
        for module, parts in modules.items():
            fitting.fit(module, parts)
        fitting.find_missing(modules)
    return fitting.fit_result


class _Fitting:
    def __init__(self, config: AdapterConfig, base: BaseNames, weight: float) -> None:
        self._config = config
        self._base = base
        self._weight = weight
        self.fit_result: Final = Fit()

    def fit(self, module: str, parts: Parts) -> None:
        self.fit_result.n_modules += 1
        if Part.TOKENS in parts:
            self._fit_tokens(module, parts[Part.TOKENS])
            if len(parts) > 1:
                self._problem(f"{shown(module)} has both trained tokens and low-rank factors")
            return
        if (experts := find_experts(self._config, self._base, module)) is not None:
            self._fit_experts(experts, parts)
            return
        name = self._base.find(f"{module}.weight")
        if name is None:
            some = next(iter(parts.values()))
            self._problem(f"{shown(some.name)} has no {shown(f'{module}.weight')} in the base")
        elif not self._is_asked_for(module):
            self._problem(f"{shown(module)} has low-rank factors, but `target_modules` does not name it")
        elif self._are_complete(module, parts):
            self._fit_matrix(module, name, parts)

    def find_missing(self, modules: Mapping[str, Parts]) -> None:
        """Find modules that are targeted and have no factors: an adapter that was not saved whole."""
        if is_all_linear(self._config) or self._config.target_modules is None:
            return
        there = {name for module in modules if (name := self._base.find(f"{module}.weight")) is not None}
        for name, tensor in self._base.tensors.items():
            module = name.removesuffix(".weight")
            is_matrix = len(tensor.shape) == 2 and module != name  # noqa: PLR2004
            if is_matrix and name not in there and is_targeted(self._config, module):
                self._problem(f"{shown(module)} is targeted, but the adapter has no factors for it")

    def _problem(self, text: str) -> None:
        self.fit_result.problems.append(text)

    def _change(self, name: str, change: Change) -> None:
        dtype = self._base.tensors[name].dtype
        if dtype not in FLOATS:
            self._problem(
                f"{shown(name)} in the base is stored as {dtype.value}, wanted {' or '.join(f.value for f in FLOATS)}"
            )
        self.fit_result.changes.setdefault(name, []).append(change)

    def _is_asked_for(self, module: str) -> bool:
        if is_targeted(self._config, module) or is_targeted(self._config, f"model.{module}"):
            return True
        if self._config.ensure_weight_tying and module.rpartition(".")[2] in EMBEDDINGS:
            return True  # factors of one embedding are saved for the one tied to it too
        return targeted_parameter(self._config, f"{module}.weight")

    def _are_complete(self, module: str, parts: Parts) -> bool:
        pair = (Part.EMBEDDING_A, Part.EMBEDDING_B) if Part.EMBEDDING_A in parts else (Part.A, Part.B)
        wanted = {*pair} | ({Part.MAGNITUDE} if self._config.use_dora else set())
        allowed = wanted | ({Part.BIAS} if self._config.lora_bias else set())
        for part in sorted(wanted - parts.keys(), key=lambda part: part.value):
            self._problem(f"{shown(module)} lacks its {part.value}")
        for part in sorted(parts.keys() - allowed, key=lambda part: part.value):
            self._problem(f"{shown(parts[part].name)} is not what the config says: {part.value} is not expected")
        return wanted <= parts.keys() <= allowed

    def _scaling(self, key: str, rank: int) -> np.float32:
        # peft 0.21.2, tuners/lora/layer.py, LoraLayer.set_scale; alpha by tuners/lora/model.py, _create_and_replace
        where = f"`alpha_pattern` in {self._config.where}"
        pattern = pattern_for(self._config.alpha_pattern, key, where=where)
        alpha = self._config.alpha if pattern is None else self._config.alpha_pattern[pattern]
        divisor = math.sqrt(rank) if self._config.use_rslora else rank
        with np.errstate(over="ignore"):
            scaling: np.float32 = np.float32(self._weight * alpha / divisor)
        return scaling

    def _rank(self, key: str) -> int:
        where = f"`rank_pattern` in {self._config.where}"
        pattern = pattern_for(self._config.rank_pattern, key, where=where)
        return self._config.r if pattern is None else self._config.rank_pattern[pattern]

    def _has_shape(self, source: TensorSource, shape: tuple[int, ...], why: str) -> bool:
        if source.shape != shape:
            self._problem(f"{shown(source.name)} has shape {source.shape}, {why} wants {shape}")
        return source.shape == shape

    def _fit_matrix(self, module: str, name: str, parts: Parts) -> None:
        shape = self._base.tensors[name].shape
        if len(shape) != 2:  # noqa: PLR2004
            self._problem(f"{shown(name)} in the base has shape {shape}, wanted a matrix")
            return
        rank = self._rank(module)
        is_embedding = Part.EMBEDDING_A in parts
        # Embeddings and Conv1D hold one input a row, so that the product is transposed; linear layers one output.
        is_transposed = is_embedding or self._is_conv1d(module, parts, shape)
        n_outputs, n_inputs = shape[::-1] if is_transposed else shape
        first, second = (Part.EMBEDDING_A, Part.EMBEDDING_B) if is_embedding else (Part.A, Part.B)
        why = f"rank {rank} and {shown(name)} {shape}"
        fits = [
            self._has_shape(parts[first], (rank, n_inputs), why),
            self._has_shape(parts[second], (n_outputs, rank), why),
            Part.MAGNITUDE not in parts or self._has_shape(parts[Part.MAGNITUDE], (n_outputs,), why),
        ]
        if not all(fits):
            return
        scaling = self._scaling(module, rank)
        left, right = (parts[first], parts[second]) if is_transposed else (parts[second], parts[first])
        product = LowRank(Factor(left, is_transposed), Factor(right, is_transposed), rank, shape[1], scaling)
        self._change(name, self._with_magnitude(product, parts, name, is_transposed=is_transposed))
        if Part.BIAS in parts:
            self._fit_bias(module, parts[Part.BIAS], scaling)

    def _with_magnitude(self, product: LowRank, parts: Parts, name: str, *, is_transposed: bool) -> Change:
        if Part.MAGNITUDE not in parts:
            return product
        if self._base.is_tied and name in self.fit_result.changes:
            self._problem("DoRA of both the embeddings and the output matrix, which are tied, has no one result")
        if is_transposed:
            return ColumnDora(product, parts[Part.MAGNITUDE], self._base.tensors[name])
        return Dora(product, parts[Part.MAGNITUDE])

    def _is_conv1d(self, module: str, parts: Parts, shape: tuple[int, ...]) -> bool:
        """Whether a weight is stored (in, out). A linear layer's is not, whatever `fan_in_fan_out` says, as in peft."""
        if module.rpartition(".")[2] not in _CONV1D:
            return False
        stored = parts[Part.B].shape[:1] + parts[Part.A].shape[1:]
        return self._config.fan_in_fan_out if shape[0] == shape[1] else stored == shape[::-1]

    def _fit_bias(self, module: str, source: TensorSource, scaling: np.float32) -> None:
        name = self._base.find(f"{module}.bias")
        if name is None:
            self._problem(f"{shown(source.name)} has no bias in the base to be added to")
        elif self._has_shape(source, self._base.tensors[name].shape, f"the base's {shown(name)}"):
            self._change(name, AddedBias(source, scaling))

    def _fit_tokens(self, module: str, source: TensorSource) -> None:
        name = self._base.find(f"{module}.weight")
        indices = self._config.token_indices.get(module.rpartition(".")[2])
        if name is None or not (is_embedding(name) or is_head(name)):
            self._problem(f"{shown(source.name)} has no embeddings in the base")
            return
        if indices is None:
            self._problem(f"{shown(source.name)} has trained tokens, which `trainable_token_indices` does not list")
            return
        n_rows, n_cols = self._base.tensors[name].shape
        why = f"{len(indices)} `trainable_token_indices` and {shown(name)} {(n_rows, n_cols)}"
        if self._has_shape(source, (len(indices), n_cols), why):
            if max(indices, default=0) >= n_rows:
                self._problem(f"`trainable_token_indices` has {max(indices)}, {shown(name)} has {n_rows} rows")
            self._change(name, ReplacedRows(source, indices))

    def _fit_experts(self, fused: FusedExperts, parts: Parts) -> None:
        if not self._are_complete(fused.name, parts):
            return
        n_experts, names = len(fused.experts), fused.experts[0]
        shapes = {self._base.tensors[name].shape for expert in fused.experts for name in expert}
        rank = self._rank(fused.name)
        if len(shapes) > 1 or len(shape := next(iter(shapes))) != 2:  # noqa: PLR2004
            self._problem(f"the experts of {shown(fused.name)} in the base have several shapes")
            return
        a, b = parts[Part.A], parts[Part.B]
        why = f"rank {rank} and {n_experts} experts of {shape}"
        fits = [
            self._has_shape(a, (rank * n_experts, shape[1]), why),
            self._has_shape(b, (len(names) * shape[0], rank * n_experts), why),
        ]
        if not all(fits):
            return
        scaling = self._scaling(fused.name, rank)
        for index, expert in enumerate(fused.experts):
            right = Factor(a, first_row=index * rank)
            for place, name in enumerate(expert):
                left = Factor(b, first_row=place * shape[0], first_col=index, col_step=n_experts)
                self._change(name, LowRank(left, right, rank, shape[1], scaling))
