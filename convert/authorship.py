"""General metadata: name, author, license, base models, sampling defaults.

The `gguf` package owns the heuristics (directory name, model card, config, generation config); this
room guards them against hostile files and adds what the reference has and the package does not yet.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import yaml
from gguf import GGUFWriter, Metadata, size_label

from convert.checkpoint import read_json
from convert.errors import CheckpointError
from convert.gguf_file import KeyValue, encode_key_value
from convert.shown import shown

if TYPE_CHECKING:
    from collections.abc import Mapping

_MAX_FILE_NBYTES: Final = 16 << 20
_MAX_FRONT_MATTER: Final = 256 << 10  # characters; YAML is parsed in Python
_YAML_LOADER: Final = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def write_authorship(writer: GGUFWriter, directory: Path) -> tuple[str, ...]:
    """Add the `general.*` entries that describe the model, in the reference's order; return notes.

    The writer must know the tensors: the size label counts their parameters. What of a model card cannot be used is
    left out with a note: it never stops a conversion.
    Raises CheckpointError for a sampling number in generation_config.json that GGUF cannot hold.
    """
    counts = writer.get_total_parameter_count()
    config = Metadata.load_hf_parameters(directory)
    place, notes = _readable(directory)
    card, more_notes = _usable_card(directory, config, place)
    metadata = Metadata.apply_metadata_heuristic(Metadata(), card, config, place, counts[0])
    for name, value in _sampling(directory).items():
        setattr(metadata, name, value)
    if metadata.name is None:
        metadata.name = place.name
    if metadata.size_label is None and counts[0] > 0:
        metadata.size_label = size_label(*counts)
    metadata.set_gguf_meta_model(writer)
    return (*notes, *more_notes)


# What hostile or careless values make of the package's heuristics and of the header's packing.
_UNUSABLE: Final = (
    yaml.YAMLError, ArithmeticError, AttributeError, LookupError, OSError, RecursionError, TypeError, ValueError,
    struct.error,
)  # fmt: skip
_CARD: Final = "README.md"
_GENERATION: Final = "generation_config.json"
# Keys of generation_config.json, what gguf's Metadata calls them, and whether they are whole numbers, in its order.
# `penalty_repeat` and transformers' own spelling of it are one: conversion/base.py @ 0c1e570 takes both.
_SAMPLING: Final = (
    ("sequence", "sampling_sequence", str),
    ("top_k", "sampling_top_k", int),
    ("top_p", "sampling_top_p", float),
    ("min_p", "sampling_min_p", float),
    ("xtc_probability", "sampling_xtc_probability", float),
    ("xtc_threshold", "sampling_xtc_threshold", float),
    ("temperature", "sampling_temp", float),
    ("penalty_last_n", "sampling_penalty_last_n", int),
    ("repetition_penalty", "sampling_penalty_repeat", float),
    ("penalty_repeat", "sampling_penalty_repeat", float),
    ("mirostat", "sampling_mirostat", int),
    ("mirostat_tau", "sampling_mirostat_tau", float),
    ("mirostat_eta", "sampling_mirostat_eta", float),
)
_INT32_END: Final = 1 << 31
_FLOAT32_END: Final = 3.4e38  # just below FLT_MAX


_CARD_KEYS: Final = {
    **{
        f"general.{key}": key
        for key in (
            *("name", "author", "version", "organization", "description", "finetune", "basename", "size_label"),
            *("license", "tags"),
        )
    },
    "general.license.name": "license_name",
    "general.license.link": "license_link",
    "general.languages": "language",
    "general.source.url": "url",
    "general.source.doi": "doi",
    "general.source.uuid": "uuid",
    "general.source.repo_url": "repo_url",
}
_HUB: Final = "https://huggingface.co/"


def card_of(values: Mapping[str, Any]) -> dict[str, Any]:
    """Give the front matter of a model card that says what a file's `general.*` metadata does."""
    found = {name: _text(values[key]) for key, name in _CARD_KEYS.items() if key in values}
    for kind in ("base_model", "dataset"):
        links = [
            values.get(f"general.{kind}.{index}.repo_url") for index in range(values.get(f"general.{kind}.count", 0))
        ]
        names = [link.removeprefix(_HUB) for link in links if isinstance(link, str)]
        found |= {f"{kind}s" if kind == "dataset" else kind: names} if names else {}
    return found


def _text(value: object) -> object:
    if isinstance(value, tuple):
        return [_text(item) for item in value]
    return value.decode(errors="replace") if isinstance(value, bytes) else value


def generation_config_of(values: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """Give a generation_config.json: a file's numbers for sampling, and the config's tokens that begin and end."""
    found = {
        key: config[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id") if config.get(key) is not None
    }
    known: set[str] = set()
    for key, name, _ in _SAMPLING:
        value = values.get(f"general.sampling.{name.removeprefix('sampling_')}")
        if value is not None and name not in known:
            known.add(name)
            found[key] = float(str(np.float32(value))) if isinstance(value, float) else value
    return found


def _readable(directory: Path) -> tuple[Path, tuple[str, ...]]:
    """Return a path whose name is text, for names made of it, and a note where the directory's is not."""
    name = os.fsencode(directory.name).decode("utf-8", "replace")
    if name == directory.name:
        return directory, ()
    return Path(name), (f"the directory's name is not UTF-8: the model is called {shown(name)} in the file",)


def _sampling(directory: Path) -> dict[str, Any]:
    path = directory / _GENERATION
    config = read_json(path, max_nbytes=_MAX_FILE_NBYTES) if path.is_file() else {}
    return {name: _number(config[key], kind, key) for key, name, kind in _SAMPLING if config.get(key) is not None}


def _number(value: object, kind: type, key: str) -> object:
    """Return a value as GGUF has it; a whole number may be written 50.0."""
    if kind is int and isinstance(value, float) and value.is_integer():
        value = int(value)
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    fits = {
        str: isinstance(value, str),
        int: isinstance(value, int) and is_number and -_INT32_END <= value < _INT32_END,
        float: is_number and abs(value) < _FLOAT32_END,  # type: ignore[arg-type]
    }
    if not fits[kind]:
        wanted = {str: "text", int: "a whole number of 32 bits", float: "a number"}[kind]
        raise CheckpointError(
            f"{shown(key)} in {_GENERATION} is {shown(value)}, wanted {wanted}",
            hint="mend it, take it out, or move the file away",
        )
    return value


def _usable_card(directory: Path, config: dict[str, Any], place: Path) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return what of the model card GGUF can hold, and a note on what it cannot."""
    path = directory / _CARD
    try:
        _check_size(path)
        _check_front_matter(path)
        card = Metadata.load_model_card(directory)
    except _UNUSABLE as error:
        return {}, (f"the model card {_CARD} cannot be read, and is passed over: {_one_line(error)}",)
    if (fault := _fault(card, config, place)) is None:
        return card, ()
    usable = {key: value for key, value in card.items() if _fault({key: value}, config, place) is None}
    left_out = ", ".join(f"{shown(key)} {shown(card[key])}" for key in card if key not in usable)
    if _fault(usable, config, place) is not None:
        usable, left_out = {}, fault
    return usable, (f"left out of the model card {_CARD}, since GGUF cannot hold it: {left_out}",)


def _fault(card: dict[str, Any], config: dict[str, Any], place: Path) -> str | None:
    """Say why a card cannot be used, by using it on trial: its values are encoded too."""
    writer = GGUFWriter(None, "llama")
    try:
        Metadata.apply_metadata_heuristic(Metadata(), card, config, place, 0).set_gguf_meta_model(writer)
        _check_encodable(writer)
    except _UNUSABLE as error:
        return _one_line(error)
    return None


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def read_front_matter(path: Path) -> dict[str, Any]:
    """Read the YAML at the head of a model card, as plain values; nothing where there is none.

    Raises CheckpointError for what cannot be read, is no mapping, or would take unbounded time to read.
    """
    if not path.is_file():
        return {}
    try:
        _check_size(path)
        _check_front_matter(path)
        lines = path.read_text(encoding="utf-8").splitlines()
        end = lines.index("---", 1) if lines[:1] == ["---"] and "---" in lines[1:] else 0
        front = yaml.load("\n".join(lines[1:end]), Loader=_YAML_LOADER) or {}  # noqa: S506 - a safe loader
    except _UNUSABLE as error:
        said = f"the front matter of {shown(path)} cannot be read: {_one_line(error)}"
        raise CheckpointError(said, hint="mend it: license, languages and gates stand in it") from error
    if not isinstance(front, dict):
        raise CheckpointError(f"the front matter of {shown(path)} is no mapping of keys to values")
    return front


def _check_size(path: Path) -> None:
    if path.is_file() and path.stat().st_size > _MAX_FILE_NBYTES:
        raise ValueError(f"`{path.name}` has {path.stat().st_size} bytes, at most {_MAX_FILE_NBYTES} make sense")


def _check_front_matter(path: Path) -> None:
    """Refuse what would take the YAML parser, or what reads its result, unbounded time: length and aliases."""
    if not path.is_file():
        return
    lines = path.read_text(encoding="utf-8").splitlines()
    if not lines or lines[0] != "---":
        return
    end = lines.index("---", 1) if "---" in lines[1:] else len(lines)
    front = "\n".join(lines[1:end])
    if len(front) > _MAX_FRONT_MATTER:
        raise ValueError(f"the front matter has {len(front)} characters, at most {_MAX_FRONT_MATTER} make sense")
    if "*" in front and any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(front, Loader=_YAML_LOADER)):
        raise ValueError("the front matter uses YAML aliases")


def _check_encodable(writer: GGUFWriter) -> None:
    """Encode now, inside the guard: a card can hold values that GGUF cannot."""
    for key, value in writer.kv_data[0].items():
        encode_key_value(KeyValue(key, value.value, value.type, value.sub_type))
