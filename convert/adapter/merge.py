"""Merge adapters into a model's tensors: what is replaced whole, what is changed, what becomes of the vocabulary.

Whole tensors come first, then the low-rank changes in the order of the requests, as peft merges several adapters.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from convert.adapter.adapter_files import Adapter, open_adapter
from convert.adapter.base_names import BaseNames, is_embedding, is_head
from convert.adapter.fit import Fit, fit_modules
from convert.adapter.merged_tensor import MergedTensor
from convert.adapter.tensor_names import NamedTensors, sort_tensors
from convert.checkpoint import TensorSource
from convert.checkpoint.views import Rows
from convert.errors import PlanError
from convert.shown import shown

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from convert.adapter.low_rank import Change
    from convert.adapter.request import MergeRequest
    from convert.checkpoint import Tensor

_MOST_SHOWN: Final = 8


@dataclass(frozen=True, slots=True)
class MergedTensors:
    """The model's tensors with the adapters in them, in the order they had.

    notes: a line each, for the plan to show. vocab_size: of a vocabulary that an adapter resized, else None.
    tokenizer: the directory of an adapter that resized it and brings its own tokenizer, else None.
    unties: the output matrix, which was the embeddings, is now a tensor of its own: `tie_word_embeddings` is false.
    """

    tensors: Mapping[str, Tensor]
    notes: tuple[str, ...] = ()
    vocab_size: int | None = None
    tokenizer: Path | None = None
    unties: bool = False


def merge_adapters(tensors: Mapping[str, Tensor], requests: Sequence[MergeRequest]) -> MergedTensors:
    """Merge adapters, in order, into a model's tensors, which then give their rows in float32.

    tensors: decoded ones, by the names of the checkpoint; Mixtral's experts one by one.
    Raises CheckpointError for an adapter that is broken or hostile, UnsupportedError for one of another kind, PlanError
    that lists everything that does not match the base.
    """
    merging = _Merging(tensors)
    for request in requests:
        merging.open(request)
    merging.replace()
    return merging.change()


@dataclass(frozen=True, slots=True)
class _Opened:
    adapter: Adapter
    named: NamedTensors
    weight: float

    @property
    def label(self) -> str:
        return shown(self.adapter.directory)


class _Merging:
    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self._order: Final = tuple(tensors)
        self._tensors: Final[dict[str, Tensor]] = _without_alias(tensors)
        self._base: Final = BaseNames(dict(self._tensors))
        self._opened: Final[list[_Opened]] = []
        self._replaced_by: Final[dict[str, _Opened]] = {}
        self._notes: Final[list[str]] = []
        self._resized_by: _Opened | None = None
        self._vocab_size: int | None = None

    def open(self, request: MergeRequest) -> None:
        adapter = open_adapter(request.path)
        self._opened.append(_Opened(adapter, sort_tensors(adapter.tensors), request.weight))

    def replace(self) -> None:
        """Put whole tensors in place."""
        for opened in self._opened:
            problems: list[str] = []
            for name, source in self._whole(opened).items():
                self._replace_one(opened, name, source, problems)
            _check(opened, problems)
        self._check_vocabulary()

    def change(self) -> MergedTensors:
        """Add what each adapter changes, and sum up."""
        gathered: dict[str, list[Change]] = {}
        for opened in self._opened:
            fit = fit_modules(opened.adapter.config, opened.named.parts, self._tensors, weight=opened.weight)
            fit.problems += [
                f"{shown(name)} is also replaced whole by {self._replaced_by[name].label}"
                for name in fit.changes
                if self._replaced_by.get(name, opened) is not opened
            ]
            _check(opened, fit.problems)
            for name, changes in fit.changes.items():
                gathered.setdefault(name, []).extend(changes)
            self._describe(opened, fit)
        for name, changes in gathered.items():
            self._tensors[name] = MergedTensor(self._tensors[name], tuple(changes))
        return MergedTensors(
            self._with_alias(),
            tuple(self._notes),
            self._vocab_size,
            self._tokenizer(),
            unties=self._base.is_tied and not BaseNames(self._tensors).is_tied,
        )

    def _with_alias(self) -> Mapping[str, Tensor]:
        """Give the output matrix its second name back, if it is still the embeddings, and the names their order."""
        tensors = dict(self._tensors)
        alias = next((name for name in self._order if name not in tensors), None)
        if alias is not None and self._base.embedding is not None and BaseNames(tensors).is_tied:
            embedding = tensors[self._base.embedding]
            tensors[alias] = Rows(embedding, alias, embedding.shape)
        return {name: tensors[name] for name in self._order} if tensors.keys() == set(self._order) else tensors

    def _whole(self, opened: _Opened) -> dict[str, TensorSource]:
        """Return an adapter's whole tensors, less a tied output matrix that was saved beside the embeddings it is."""
        whole = dict(opened.named.whole)
        if not self._base.is_tied or _is_saved(opened, "lm_head"):
            return whole
        head = next((name for name in whole if is_head(name)), None)
        if head is not None and self._base.embedding is not None:
            source = whole.pop(head)
            if not any(is_embedding(name) for name in whole):
                whole[self._base.embedding] = source
        return whole

    def _replace_one(self, opened: _Opened, name: str, source: TensorSource, problems: list[str]) -> None:
        found = self._base.find_untied(name)
        if found is None and is_head(name) and self._base.embedding is not None:
            self._untie(name, self._base.tensors[self._base.embedding])
            found = name
        if found is None:
            problems.append(f"{shown(source.name)} has no {shown(name)} in the base")
            return
        if self._replaced_by.setdefault(found, opened) is not opened:
            problems.append(f"{shown(found)} is also replaced whole by {self._replaced_by[found].label}")
            return
        shape = self._tensors[found].shape
        is_vocabulary = is_embedding(found) or is_head(found)
        if source.shape != shape and not (is_vocabulary and source.shape[1:] == shape[1:]):
            problems.append(f"{shown(source.name)} has shape {source.shape}, the base's {shown(found)} has {shape}")
            return
        if source.shape != shape:
            self._resized_by = opened
        if self._base.is_tied and is_embedding(found) and _is_saved(opened, "embed_tokens"):
            # peft 0.21.2: a saved module is a copy, so the output matrix stays what it was
            self._untie("lm_head.weight", opened.named.untrained.get(name, self._base.tensors[found]))
        self._tensors[found] = Rows(source, found, source.shape)

    def _untie(self, name: str, embedding: Tensor) -> None:
        """Give the output matrix a tensor of its own, where the order of names puts it."""
        if any(is_head(other) for other in self._tensors):
            return
        self._notes.append("the adapter unties the output matrix from the embeddings")
        names = [*self._tensors]
        self._tensors[name] = Rows(embedding, name, embedding.shape)
        if names == sorted(names):
            for later in [other for other in names if other > name]:
                self._tensors[later] = self._tensors.pop(later)

    def _check_vocabulary(self) -> None:
        if self._resized_by is None:
            return
        rows = {name: tensor.shape[0] for name, tensor in self._tensors.items() if is_embedding(name) or is_head(name)}
        if len(set(rows.values())) > 1:
            listed = " and ".join(f"{shown(name)} {n_rows}" for name, n_rows in rows.items())
            _check(self._resized_by, [f"the vocabulary is resized in one place only: rows of {listed}"])
        self._vocab_size = next(iter(rows.values()))
        before = self._base.tensors[self._base.embedding or next(iter(rows))].shape[0]
        where = "its own tokenizer" if self._resized_by.adapter.has_tokenizer else "the base's tokenizer: it has none"
        self._notes.append(
            f"{self._resized_by.label} resizes the vocabulary from {before} to {self._vocab_size} tokens, with {where}"
        )

    def _tokenizer(self) -> Path | None:
        resizing = self._resized_by
        return resizing.adapter.directory if resizing is not None and resizing.adapter.has_tokenizer else None

    def _describe(self, opened: _Opened, fit: Fit) -> None:
        config, label, n_whole = opened.adapter.config, opened.label, len(self._whole(opened))
        kind = "DoRA" if config.use_dora else "LoRA"
        weight = f", weight {opened.weight:g}" if opened.weight != 1 else ""
        parts = [f"{kind} on {_count(fit.n_modules, 'module')}"] if fit.n_modules else []
        parts += [_count(n_whole, "whole tensor")] if n_whole else []
        self._notes.append(f"merges {label}: {' and '.join(parts)}, in float32{weight}")
        self._notes.extend(f"{shown(opened.adapter.directory.name)}: {note}" for note in opened.adapter.notes)
        if n_whole and opened.weight != 1:
            self._notes.append(f"{label}: whole tensors are taken as they are; the weight is for low-rank changes")
        if opened.adapter.has_tokenizer and self._tokenizer() is None:
            self._notes.append(f"the tokenizer is the base's; {label} has one of its own, which is passed over")
        if opened.named.ignored:
            self._notes.append(f"{label}: passes over {len(opened.named.ignored)} copies of the base's own tensors")
        if BaseNames(self._tensors).is_tied and self._base.embedding in fit.changes:
            self._notes.append(f"{label} changes the embeddings, which are the output matrix too: as peft merges it")


def _without_alias(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Leave out an output matrix that is the embeddings under a second name, as torch files have it: it is tied."""
    names = BaseNames(tensors)
    if names.head is None or names.embedding is None:
        return dict(tensors)
    head, embedding = tensors[names.head], tensors[names.embedding]
    if not (isinstance(head, TensorSource) and isinstance(embedding, TensorSource)):
        return dict(tensors)
    if head != replace(embedding, name=head.name):
        return dict(tensors)
    return {name: tensor for name, tensor in tensors.items() if name != names.head}


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _is_saved(opened: _Opened, module: str) -> bool:
    """Whether `modules_to_save` names a module: it is then a copy, tied to nothing unless the config says so."""
    config = opened.adapter.config
    return not config.ensure_weight_tying and any(name.rpartition(".")[2] == module for name in config.modules_to_save)


def _check(opened: _Opened, problems: list[str]) -> None:
    if not problems:
        return
    listed = "; ".join(problems[:_MOST_SHOWN])
    more = f"; and {len(problems) - _MOST_SHOWN} more" if len(problems) > _MOST_SHOWN else ""
    base = opened.adapter.config.base
    raise PlanError(
        f"the adapter {opened.label} does not fit the base: {listed}{more}",
        hint=f"it says that it was trained on {shown(base)}" if base else "is this the model it was trained on?",
    )
