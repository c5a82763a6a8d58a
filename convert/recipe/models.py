"""Which models a recipe is about: paths, patterns of paths, addresses."""

from __future__ import annotations

import glob
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from convert.adapter import is_adapter
from convert.plan import directory_name, gguf_name
from convert.recipe.asked import is_place, seen_from
from convert.shown import nearest, shown

if TYPE_CHECKING:
    from collections.abc import Iterator

_REVISION: Final = re.compile(r"@[^/]*$")
_OF_THE_HUB: Final = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.@-]+")

Fault = tuple[int | None, str]  # the place in the list, or None for all of it


@dataclass(frozen=True, slots=True)
class RecipeModel:
    """A model of a recipe. place: its path, whole, or its address. name: what `{model}` stands for."""

    place: str
    name: str


def find_models(value: object, directory: Path) -> tuple[tuple[RecipeModel, ...], tuple[Fault, ...]]:
    """Find the models that `models` names, as seen from the recipe's directory; and what is wrong with it."""
    listed = value if isinstance(value, list) else [] if value is None else [value]
    models: dict[str, RecipeModel] = {}
    faults: list[Fault] = []
    for index, word in enumerate(listed):
        where = index if isinstance(value, list) else None
        if not isinstance(word, str):
            faults.append((where, f"{shown(word)} is no model, wanted a path, a pattern or an address, as a string"))
            continue
        found = list(_places(word, directory.absolute()))
        if not found:
            faults.append((where, _nothing(word, directory)))
        models |= {place: RecipeModel(place, model_name(place)) for place in found}
    return tuple(models.values()), (*faults, *_same_names(list(models.values())))


def _places(word: str, directory: Path) -> Iterator[str]:
    if not is_place(word):
        yield word
        return
    path = seen_from(directory)(word)
    if Path(path).exists():
        yield path
    elif glob.has_magic(path):
        yield from (found for found in sorted(glob.glob(path, recursive=True)) if _is_model(Path(found)))  # noqa: PTH207


def _is_model(path: Path) -> bool:
    return path.suffix == ".gguf" or (path / "config.json").is_file() or is_adapter(path)


def model_name(place: str) -> str:
    """Name a model after its path or address."""
    if place.endswith(".gguf"):
        return gguf_name(place)
    if is_place(place):
        return directory_name(Path(place))
    return _REVISION.sub("", place).rstrip("/").rpartition("/")[2]


def _nothing(word: str, directory: Path) -> str:
    if glob.has_magic(word):
        return f"no model fits {shown(word)}"
    hint = nearest(Path(seen_from(directory.absolute())(word)))
    elsewhere = f"on the Hub it is {shown(f'hf://{word}')}" if _OF_THE_HUB.fullmatch(word) else None
    return ": ".join(filter(None, (f"the model {shown(word)} is not there", hint or elsewhere)))


def _same_names(models: list[RecipeModel]) -> Iterator[Fault]:
    """Two models of one name would write the same files."""
    first: dict[str, RecipeModel] = {}
    for model in models:
        other = first.setdefault(model.name, model)
        if other is not model:
            yield None, f"{shown(other.place)} and {shown(model.place)} are both called {shown(model.name)}"
