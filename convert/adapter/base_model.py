"""The base of an adapter that is given as MODEL: where its `base_model_name_or_path` lies on this machine.

Looked for, in order: an absolute path; a path from the adapter's directory; one from the current directory; the Hub's
cache, at the revision that the adapter names. Nothing is downloaded.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from convert.adapter.adapter_files import adapter_config, adapter_directory, is_adapter, open_adapter
from convert.adapter.request import MergeRequest
from convert.checkpoint.index import cached_name
from convert.errors import CheckpointError, Remedy
from convert.shown import shown

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from convert.checkpoint import Checkpoint

_HUB_ID: Final = re.compile(r"(?:[A-Za-z0-9][\w.-]{0,95}/)?[A-Za-z0-9][\w.-]{0,95}")
_REVISION: Final = re.compile(r"[A-Za-z0-9][\w./-]{0,199}")


@dataclass(frozen=True, slots=True)
class ResolvedModel:
    """A model, and what is to be merged into it. notes: a line each, for the plan to show."""

    model: Path
    requests: tuple[MergeRequest, ...]
    notes: tuple[str, ...] = ()


def resolve_model(model: Path, requests: Sequence[MergeRequest] = ()) -> ResolvedModel:
    """Take a model as it is; or, where it is an adapter, find its base: the adapter is then merged first.

    Raises CheckpointError or UnsupportedError for an adapter that cannot be read, or whose base is not on this machine.
    """
    if is_adapter(model):
        base, notes = find_base(model)
        return ResolvedModel(base, (MergeRequest(model), *requests), notes)
    return ResolvedModel(model, tuple(requests))


def find_base(adapter: Path) -> tuple[Path, tuple[str, ...]]:
    """Return the directory of an adapter's base, and notes that say where it was found.

    Raises CheckpointError if the adapter names none, or if it is not on this machine.
    """
    adapter = adapter_directory(adapter)
    config = adapter_config(adapter)
    if config.base is None:
        raise CheckpointError(
            f"{config.where} names no base model in `base_model_name_or_path`",
            remedies=(Remedy.GIVE_BASE,),
            facts={"adapter": adapter},
        )
    for path in _paths(adapter, config.base):
        if _is_adapter(path):
            raise CheckpointError(
                f"the base of {shown(adapter)}, {shown(path)}, is an adapter itself",
                remedies=(Remedy.GIVE_COMMON_BASE,),
            )
        if _is_model(path):
            return path, (f"the base of {shown(_name(adapter))} is {shown(path)}",)
    cached = _cached(config.base, config.revision)
    if cached is not None:
        revision = f" at {shown(config.revision)}" if config.revision else ""
        return cached, (f"the base of {shown(_name(adapter))} is {shown(config.base)}{revision}, from the Hub's cache",)
    raise _not_found(adapter, config.base, config.revision)


def other_bases(requests: Sequence[MergeRequest], checkpoint: Checkpoint) -> tuple[str, ...]:
    """Say which adapters name another base than the one they are merged into; a note for each.

    Only the last part of a name counts: a model is downloaded, copied and renamed.
    Raises CheckpointError or UnsupportedError for an adapter that cannot be read.
    """
    own = str(checkpoint.known_config.get("_name_or_path") or "")
    cached = cached_name(checkpoint.directory)
    names = {_last(own), _last(cached or ""), _last(checkpoint.directory.name)}
    into = shown(cached or checkpoint.directory.name)
    adapters = (open_adapter(request.path) for request in requests)
    named = ((_name(adapter.directory), adapter.config.base) for adapter in adapters)
    return tuple(
        f"{shown(adapter)} was trained on {shown(base)}, and is merged into {into}"
        for adapter, base in named
        if base is not None and _last(base) not in names
    )


def _last(name: str) -> str:
    return name.rstrip("/").rpartition("/")[2].lower()


def _name(adapter: Path) -> str:
    return cached_name(adapter) or adapter.name


def _paths(adapter: Path, name: str) -> Iterator[Path]:
    if "\0" in name:
        return
    path = Path(name).expanduser() if name.startswith("~/") else Path(name)
    if path.is_absolute():
        yield _without_dots(path)
        return
    yield _without_dots(adapter / path)
    yield _without_dots(Path.cwd() / path)


def _without_dots(path: Path) -> Path:
    """Take `..` out of a path, whose last part names the model, where no link on the way makes that another place."""
    short = Path(os.path.normpath(path))
    try:
        return short if short.samefile(path) else path
    except OSError:
        return path


def _is_model(path: Path) -> bool:
    try:
        return any((path / name).is_file() for name in ("config.json", "model_config.yaml"))
    except OSError:  # a name too long to be one
        return False


def _is_adapter(path: Path) -> bool:
    try:
        return is_adapter(path)
    except OSError:
        return False


def _cached(name: str, revision: str | None) -> Path | None:
    if not _HUB_ID.fullmatch(name) or (revision is not None and not _REVISION.fullmatch(revision)):
        return None
    try:
        from huggingface_hub import try_to_load_from_cache  # noqa: PLC0415 - only where a base is looked for
        from huggingface_hub.errors import HFValidationError  # noqa: PLC0415
    except ImportError:
        return None
    try:
        config = try_to_load_from_cache(name, "config.json", revision=revision)
    except (HFValidationError, ValueError, OSError):
        return None
    return Path(config).parent if isinstance(config, str) else None


def _not_found(adapter: Path, name: str, revision: str | None) -> CheckpointError:
    message = f"the base of {shown(adapter)} is not on this machine: looked for a directory {shown(name)}"
    if not _HUB_ID.fullmatch(name):
        return CheckpointError(message, remedies=(Remedy.GIVE_BASE,), facts={"adapter": adapter})
    download = f"hf download {name}" + (f" --revision {revision}" if revision else "")
    return CheckpointError(
        f"{message}, and for it in the Hub's cache",
        hint=f"or `{download}`, then try again",
        remedies=(Remedy.GIVE_BASE,),
        facts={"adapter": adapter},
    )
