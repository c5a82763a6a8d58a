"""Read a recipe, and hold it whole against what the commands can do, before anything starts.

FILE.toml ── read_toml ──▶ document ── models, jobs ──▶ Recipe: for each model its steps, each a command asked for
                                    └─ what is wrong ──▶ one RecipeError, with the line of each fault

The schema comes from whoever has the commands, so that a recipe can say what they can, and nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from convert.errors import ConvertError, RecipeError
from convert.hub import check_repository_name
from convert.recipe.asked import Asked, seen_from
from convert.recipe.checks import check_words, missing_inputs, repositories
from convert.recipe.lines import line_numbers, read_toml
from convert.recipe.models import RecipeModel, find_models
from convert.recipe.schema import Kind
from convert.recipe.spelling import SpellingError, in_words
from convert.shown import shown

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from convert.recipe.lines import Where
    from convert.recipe.schema import Key, Schema

_MODELS, _JOBS, _COMMAND = "models", "job", "command"
_OF_CHECKPOINT, _OF_GGUF = "all", "quantize"
_SOURCES: Final = ("model", "source", "models")  # the argument that is the model, where a job does not say another
_LOCK: Final = "lock"
_PUSH: Final = "push-to-hub"
_PLACES: Final = ("merge", "imatrix")  # paths among other words


@dataclass(frozen=True, slots=True)
class Batch:
    """What is done for one model, in order. name: the model's; empty for a recipe without models."""

    name: str
    steps: tuple[Asked, ...]


@dataclass(frozen=True, slots=True)
class Recipe:
    """A recipe, checked."""

    path: Path
    batches: tuple[Batch, ...]


def read_recipe(path: Path, schema: Schema) -> Recipe:
    """Read a recipe. schema: the commands' options. Paths in it are as seen from its directory.

    Raises RecipeError that lists all that is wrong: keys that are not known, types, values, what is not there.
    """
    try:
        text = path.read_text(encoding="utf-8")
        document = read_toml(text)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise RecipeError(f"{shown(path)} cannot be read: {reason}") from error
    reading = _Reading(path, document, schema)
    batches = tuple(reading.batches())
    if reading.faults:
        raise _error(path, reading.faults, line_numbers(text))
    return Recipe(path, batches)


def _error(path: Path, faults: Iterable[tuple[Where, str]], lines: Mapping[Where, int]) -> RecipeError:
    said = sorted((lines.get(where, 1), fault) for where, fault in faults)
    if len(said) == 1:
        return RecipeError(f"{shown(path)}, line {said[0][0]}: {said[0][1]}")
    listed = (f"line {line}: {fault}" for line, fault in said)
    return RecipeError("\n".join([f"{shown(path)} has {len(said)} faults", *listed]))


@dataclass(slots=True)
class _Reading:
    """One pass over a document. faults: (where, what), each once, whatever the number of models that meet it."""

    path: Path
    document: Mapping[str, Any]
    schema: Schema
    faults: dict[tuple[Where, str], None] = field(default_factory=dict)
    made: list[Path] = field(default_factory=list)  # where earlier steps write
    pushed: set[tuple[Where, str]] = field(default_factory=set)  # a job's repository, of an earlier model

    def batches(self) -> Iterator[Batch]:
        models, faults = find_models(self.document.get(_MODELS), self.path.parent)
        for index, fault in faults:
            self._fault((_MODELS,) if index is None else (_MODELS, index), fault)
        jobs = self._jobs()
        self._check_common(models, jobs)
        for model in models or (RecipeModel("", ""),):
            steps = [self._step(model, where, job) for where, job in jobs]
            yield Batch(model.name, tuple(step for step in steps if step is not None))

    def _fault(self, where: Where, fault: str) -> None:
        self.faults[where, fault] = None

    def _jobs(self) -> list[tuple[Where, Mapping[str, Any]]]:
        jobs = self.document.get(_JOBS)
        if jobs is None:
            return [((), {})]
        if not isinstance(jobs, list) or not all(isinstance(job, dict) for job in jobs):
            self._fault((_JOBS,), f"`{_JOBS}` is not a list of tables: write `[[{_JOBS}]]`")
            return []
        return [((_JOBS, number), job) for number, job in enumerate(jobs)]

    def _command(self, model: RecipeModel, where: Where, job: Mapping[str, Any]) -> str | None:
        """Say which command a job is: as it says; else by what the model is."""
        command = job.get(_COMMAND, self.document.get(_COMMAND))
        if command is None:
            return _OF_GGUF if model.place.endswith(".gguf") else _OF_CHECKPOINT
        if isinstance(command, str) and command in self.schema:
            return command
        place = (*where, _COMMAND) if _COMMAND in job else (_COMMAND,)
        self._fault(place, f"{shown(command)} is no command; there are {', '.join(self.schema)}")
        return None

    def _check_common(self, models: tuple[RecipeModel, ...], jobs: list[tuple[Any, Mapping[str, Any]]]) -> None:
        """Find keys for all jobs that none of them knows."""
        commands = {self._command(model, *job) for model in models or (RecipeModel("", ""),) for job in jobs}
        understood = set(self.schema) if None in commands else {command for command in commands if command}
        known = {key for command in understood for key in self.schema[command]}
        for key in self.document:
            if key not in (_MODELS, _JOBS, _COMMAND) and key not in known:
                self._fault((key,), _unknown(key, known | {_MODELS, _JOBS, _COMMAND}))

    def _step(self, model: RecipeModel, where: Where, job: Mapping[str, Any]) -> Asked | None:
        command = self._command(model, where, job)
        if command is None:
            return None
        keys = self.schema[command]
        common = set(keys) - {_MODELS, *job}
        given: list[tuple[Where, str, Any]] = [
            ((key,), key, value) for key, value in self.document.items() if key in common
        ]
        given += [((*where, key), key, value) for key, value in job.items() if key != _COMMAND]
        options = {name: key.default for name, key in keys.items()} | ({_LOCK: True} if _LOCK in keys else {})
        options |= {name: _as(keys[name], model.place) for name in _SOURCES if name in keys and model.place}
        for place, key, value in given:
            if key not in keys:
                self._fault(place, _unknown(key, {*keys, _COMMAND}))
            else:
                options |= self._words(place, key, value, keys)
        if (matrix := options.get("imatrix")) and "imatrix-name" in keys and not options["imatrix-name"]:
            options["imatrix-name"] = "{model}-imatrix.gguf" if matrix == "auto" else matrix  # wherever the recipe lies
        return self._checked(Asked(command, _filled(options, model)), where, keys)

    def _words(self, where: Where, name: str, value: object, keys: Mapping[str, Key]) -> Mapping[str, object]:
        """Spell a value in the command's words, if it is of the right type and can be read."""
        try:
            words = in_words(name, value)
        except SpellingError as error:
            self._fault(where, f"`{name}` is {shown(value)}, wanted {error}")
            return {}
        for key, word in words.items():
            if key not in keys:
                self._fault(where, _unknown(key, set(keys)))
            elif fault := _type_fault(word, keys[key]):
                self._fault(where, f"`{key}` is {shown(word)}, wanted {fault}")
            else:
                continue
            return {}
        try:
            check_words(words)
        except ConvertError as error:
            self._fault(where, error.message)
            return {}
        return words

    def _checked(self, asked: Asked, where: Where, keys: Mapping[str, Key]) -> Asked:
        """Make paths whole, and see that all is there that must be."""
        places = tuple(name for name, key in keys.items() if key.kind is Kind.PLACE) + _PLACES
        placed = asked.relocated(seen_from(self.path.parent.absolute()), places)
        job = self.document[_JOBS][where[1]] if where else {}
        for name, key in keys.items():
            wanted = _MODELS if name in _SOURCES else name
            if key.required and not placed.options.get(name) and not {name, wanted} & {*self.document, *job}:
                self._fault(where, f"`{wanted}` is missing, for the command `{asked.command}`")
        for name, path in missing_inputs(placed, self.made):
            if name in job or name in self.document:
                self._fault((*where, name) if name in job else (name,), f"`{name}`: {shown(path)} is not there")
        self._check_repositories(placed, where, job)
        self.made += [Path(str(placed.options[name])) for name in ("outdir", "out") if placed.options.get(name)]
        return placed

    def _check_repositories(self, asked: Asked, where: Where, job: Mapping[str, Any]) -> None:
        """See that names are names, and that no two models push to one: the second would be refused."""
        for name, repository in repositories(asked):
            place = (*where, name) if name in job else (name,)
            try:
                check_repository_name(repository)
            except ConvertError as error:
                self._fault(place, error.message)
            if name == _PUSH and (place, repository) in self.pushed:
                self._fault(place, f"`{name}` is {shown(repository)} for several models, wanted `{{model}}` in it")
            self.pushed.add((place, repository))


def _as(key: Key, place: str) -> str | list[str]:
    return [place] if key.many else place


def _unknown(key: str, known: set[str]) -> str:
    near = get_close_matches(key, known, n=1)
    return f"the key {shown(key)} is not known" + (f": is it `{near[0]}`?" if near else "")


def _type_fault(value: object, key: Key) -> str | None:
    """Say what is wanted instead of a value; None where it is right."""
    if key.many and isinstance(value, list):
        return None if all(_fits(each, key) for each in value) else f"a list of these: {key.kind.value}"
    if not _fits(value, key):
        return f"{key.kind.value}, {key.least} at least" if key.least is not None else key.kind.value
    if key.choices and value not in key.choices:
        return f"one of {', '.join(key.choices)}"
    return None


def _fits(value: object, key: Key) -> bool:
    if key.kind is Kind.FLAG:
        return isinstance(value, bool)
    if key.kind is Kind.INTEGER:
        return isinstance(value, int) and not isinstance(value, bool) and value >= (key.least or 0)
    if key.kind is Kind.NUMBER:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    return isinstance(value, str)


def _filled(options: Mapping[str, Any], model: RecipeModel) -> dict[str, Any]:
    """Put the model's name, and its path, where a recipe says `{model}` and `{path}`."""

    def filled(value: Any) -> Any:  # noqa: ANN401 - whatever an option holds
        if isinstance(value, list):
            return [filled(each) for each in value]
        return value.replace("{model}", model.name).replace("{path}", model.place) if isinstance(value, str) else value

    return {name: filled(value) for name, value in options.items()}
