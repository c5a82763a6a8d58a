"""The families' tensor rules from right to left: of a GGUF file's tensors, those that a class of transformers loads.

Every name that the class could have goes the way there (parts, renames, gguf's map, the rule and its view), and the
view is undone on the tensors that the file has under the rule's name.
"""

from __future__ import annotations

import re
from collections import defaultdict
from itertools import chain
from math import prod
from typing import TYPE_CHECKING

import numpy as np

from convert.architecture.family import Rule, n_experts
from convert.architecture.mapping import WHOLE, locator
from convert.architecture.stored_names import stored_names
from convert.checkpoint import matrix_shape
from convert.checkpoint.undone import Outline, undone
from convert.checkpoint.views import Constant, Rows
from convert.checkpoint.woven import woven_rows
from convert.errors import UnsupportedError
from convert.shown import shown_list

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from convert.architecture.family import Family, Parts
    from convert.architecture.hyperparameters import Hyperparameters
    from convert.checkpoint import Tensor


def stored_tensors(
    family: Family, class_name: str, h: Hyperparameters, tensors: Mapping[str, Tensor], values: Mapping[str, object]
) -> dict[str, Tensor]:
    """Give the tensors as the class stores them, in the order of the file.

    h: of the config that was made of the file. tensors: the file's, of floats, by name. values: its metadata.
    Raises UnsupportedError for a tensor that the class has no place for, or lacks.
    """
    back = _Back(family, h, tensors)
    found = dict(chain(back.tensors(class_name), _numbers(family, class_name, h, values)))
    constants = {rule.name for rule in family.tensors(h, 0) if isinstance(rule, Constant)}
    if left := [name for name in tensors if name not in back.used | constants]:
        raise UnsupportedError(f"`{class_name}` has no place for {shown_list(left, most=3)}")
    if lacking := [rule.name for rule in back.rules if rule.required and rule.name not in back.used]:
        raise UnsupportedError(f"the file lacks what `{class_name}` needs: {shown_list(lacking, most=3)}")
    order = {name: index for index, name in enumerate(tensors)}
    return dict(sorted(found.items(), key=lambda item: back.places.get(item[0], order.get(item[0], len(order)))))


class _Back:
    """The rules, by what gguf's map calls their source; and what of the file has been used."""

    def __init__(self, family: Family, h: Hyperparameters, tensors: Mapping[str, Tensor]) -> None:
        self.family, self.h, self.file = family, h, tensors
        n_tokens = tensors["token_embd.weight"].shape[0] if "token_embd.weight" in tensors else 0
        self.rules = [rule for rule in family.tensors(h, n_tokens) if isinstance(rule, Rule)]
        self.by_source: dict[str, list[Rule]] = defaultdict(list)
        for rule in self.rules:
            self.by_source[rule.source].append(rule)
        self.locate = locator(family, h)
        self.order = {name: index for index, name in enumerate(tensors)}
        self.used: set[str] = set()
        self.places: dict[str, int] = {}

    def tensors(self, class_name: str) -> Iterator[tuple[str, Tensor]]:
        several = max(n_experts(self.h) or 0, *(rule.n_stacked or 0 for rule in self.rules), 1)
        taken = set()
        for name in stored_names(class_name, (self.family.n_blocks(self.h), several)):
            parts = next((parts for parts in self.family.parts if re.fullmatch(parts.pattern, name)), None)
            where = self.locate(name)
            if where in taken or self._is_another(name):
                continue
            taken.add(where)
            tensor = self._stored(name, where) if parts is None else self._joined(name, parts)
            if tensor is not None:
                yield name, tensor

    def _stored(self, name: str, where: tuple[str, int]) -> Tensor | None:
        source, index = where
        rules = [rule for rule in self.by_source.get(source, ()) if rule.name in self.file]
        if not rules:
            return None
        self.used |= {rule.name for rule in rules}
        self.places[name] = max(self.order[rule.name] for rule in rules)
        stored = Outline(name, _stored_shape(rules[0], self.file[rules[0].name]))
        whole = undone(stored, [(rule.make(stored), self.file[rule.name]) for rule in rules])
        if index == WHOLE:
            return whole
        n_rows = matrix_shape(stored.shape)[0] // stored.shape[0]
        return Rows(whole, name, stored.shape[1:], index * n_rows) if index < stored.shape[0] else None

    def _is_another(self, name: str) -> bool:
        """Whether a block has what the class does not have beside this name."""
        layer = re.search(r"\.(\d+)\.", name)
        return layer is not None and any(
            re.search(pattern, name) and f"blk.{layer[1]}.{beside}" in self.file
            for beside, pattern in self.family.not_beside
        )

    def _joined(self, name: str, parts: Parts) -> Tensor | None:
        """Join what is stored as one: of each expert, where there are several, one part after the other."""
        match = re.fullmatch(parts.pattern, name)
        assert match is not None  # noqa: S101 - it was just found
        names = [match.expand(part).replace(".{expert}.", ".") for part in parts.names]
        found = [self._stored(part, (self.locate(part)[0], WHOLE)) for part in names]
        self.places[name] = max((self.places.pop(part) for part in names if part in self.places), default=0)
        made = tuple(part for part in found if part is not None)
        if len(made) < len(names):
            return None
        *stack, _, n_cols = made[0].shape
        counts = tuple(part.shape[-2] for part in made)
        shape = (*stack, sum(counts), n_cols)
        return woven_rows(name, shape, made, counts)


def _stored_shape(rule: Rule, made: Tensor) -> tuple[int, ...]:
    """Give the shape of what a rule is made of; where any number of rows will do, as many as the file has."""
    shape = rule.shape if rule.n_stacked is None else (rule.n_stacked, *rule.shape)
    known = prod(size for size in shape if size is not None)
    return tuple(prod(made.shape) // known if size is None else size for size in shape)


def _numbers(
    family: Family, class_name: str, h: Hyperparameters, values: Mapping[str, object]
) -> Iterator[tuple[str, Tensor]]:
    """Yield tensors of one number each, which the file has as metadata."""
    for name in stored_names(class_name, (family.n_blocks(h), 1)):
        for numbers in family.numbers:
            if match := re.fullmatch(numbers.pattern, name):
                listed = values.get(numbers.key)
                if not isinstance(listed, tuple) or len(listed) != family.n_blocks(h):
                    raise UnsupportedError(f"the file lacks `{numbers.key}`, a number for each layer")
                data = np.array(listed[int(match[1])], "<f4").tobytes()
                yield name, Rows(Constant(name, data), name, numbers.shape)
