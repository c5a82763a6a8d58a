"""Every file that outputs are made from: a model's weights and the small files beside them, adapters, matrices."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from convert.adapter import parse_merge, resolve_model
from convert.adapter.adapter_files import SAFETENSORS_FILE, TORCH_FILE
from convert.checkpoint.index import cached_name
from convert.checkpoint.layouts import NOTHING_STATED, find_layout
from convert.checkpoint.parts import choose_parts
from convert.gguf_file import read_parts
from convert.recipe.asked import is_place
from convert.remote import hub_name, located

if TYPE_CHECKING:
    from collections.abc import Iterator

    from convert.recipe.asked import Asked

# What beside weights can have a say: configs, tokenizers, templates, the card that names the authors, trusted code.
_SMALL: Final = frozenset({".json", ".jinja", ".model", ".txt", ".md", ".py", ".tiktoken", ".yaml"})
_PATTERNS: Final = ("additional_chat_templates/*.jinja", "*_Pooling/config.json", "tokenizer.model.v*")
_ADAPTERS: Final = (SAFETENSORS_FILE, TORCH_FILE, "pytorch_model.bin")
_MODELS: Final = ("model", "source")
_HEX: Final = frozenset("0123456789abcdef")
_COMMIT_LENGTH: Final = 40


@dataclass(frozen=True, slots=True)
class Input:
    """A place that something is read from. role: the option that names it. paths: its files."""

    role: str
    place: Path
    paths: tuple[Path, ...]

    @property
    def repository(self) -> str | None:
        """`ORG/NAME`, where it is a repository on the Hub, or in its cache."""
        return hub_name(self.directory) or cached_name(self.directory)

    @property
    def commit(self) -> str | None:
        """Of the repository, where it is known."""
        names = (self.directory.parent.name, self.directory.name)  # a stand-in's, and a snapshot's
        commits = (name for name in names if len(name) == _COMMIT_LENGTH and _HEX.issuperset(name))
        return next(commits, None) if self.repository else None

    @property
    def directory(self) -> Path:
        """The directory that the files are in."""
        return self.place if self.place.is_dir() else self.place.parent


def inputs_of(asked: Asked) -> tuple[Input, ...]:
    """Find every file that a command reads; an adapter given as the model brings its base.

    Raises CheckpointError for a model that cannot be found.
    """
    return tuple(_inputs(asked))


def _path(word: object) -> Path:
    return Path(located(str(word)))


def _inputs(asked: Asked) -> Iterator[Input]:
    merged = tuple(parse_merge(str(word)) for word in asked.options.get("merge") or ())
    for role in _MODELS:
        if (model := asked.options.get(role)) is not None:
            yield from _model(role, _path(model))
    for request in merged:
        yield _adapter("merge", _path(request.path))
    if is_place(place := asked.options.get("tokenizer")):
        yield Input("tokenizer", _path(place), tuple(_small_files(_path(place))))
    for role in ("imatrix", "tensor-type-file", "config"):
        if is_place(place := asked.options.get(role)):
            yield Input(role, Path(str(place)), (Path(str(place)),))


def _model(role: str, path: Path) -> Iterator[Input]:
    if path.suffix == ".gguf" and path.is_file():
        yield Input(role, path, tuple(part.path for part in read_parts(path)))
        return
    if role == "source":  # a GGUF in a program, or what is older than GGUF
        yield Input(role, path, (path,))
        return
    resolved = resolve_model(path)
    for request in resolved.requests:  # the adapter that was given as the model
        yield _adapter(role, request.path)
    found = find_layout(resolved.model, NOTHING_STATED)
    parts = choose_parts(resolved.model) if found is None else found[1]
    place = parts.directory if resolved.model.is_dir() else resolved.model
    beside = (found[1].beside,) if found else ()
    weights = [each for path in parts.paths for each in (sorted(path.iterdir()) if path.is_dir() else (path,))]
    paths = dict.fromkeys((*_small_files(parts.directory), *beside, *weights))
    yield Input("base" if resolved.requests else role, place, tuple(paths))


def _adapter(role: str, path: Path) -> Input:
    directory = path.parent if path.is_file() else path
    weights = [directory / name for name in _ADAPTERS if (directory / name).is_file()][:1]
    return Input(role, directory, (*_small_files(directory), *weights))


def _small_files(directory: Path) -> Iterator[Path]:
    """Give the files beside the weights, in the order of their names; not locks, which are about outputs."""
    beside = (path for path in directory.iterdir() if path.suffix in _SMALL and not path.name.startswith("."))
    inside = (path for pattern in _PATTERNS for path in directory.glob(pattern))
    for path in sorted({*beside, *inside}):
        if path.is_file() and not path.name.endswith(".lock.json"):
            yield path
