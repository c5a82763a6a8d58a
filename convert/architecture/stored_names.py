"""The names under which transformers' classes save their tensors, with `{}` for the numbers of layers and experts.

They are in stored_names.json, which tests/generate_stored_names.py writes from what the classes save.
"""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

# class → (its model_type, the names)
STORED_NAMES: Final[Mapping[str, tuple[str, Sequence[str]]]] = {
    name: (model_type, tuple(names))
    for name, (model_type, names) in json.loads(Path(__file__).with_suffix(".json").read_text(encoding="utf-8")).items()
}


def stored_names(class_name: str, counts: tuple[int, int]) -> Iterator[str]:
    """Yield every name that a model of a class could have. counts: of layers, and of what a layer has several of.

    One number alone may be of either.
    """
    for pattern in STORED_NAMES[class_name][1]:
        ranges = (max(counts),) if pattern.count("{}") == 1 else counts[: pattern.count("{}")]
        for numbers in product(*map(range, ranges)):
            yield pattern.format(*numbers)
