"""Results that stay: a stage that was measured once of the same bytes is not measured again."""

from __future__ import annotations

import hashlib
import json
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

_FORMAT: Final = 1  # counted up when a figure comes to mean something else


@dataclass(frozen=True, slots=True)
class Cache:
    """A directory of results as JSON, by what they depend on."""

    directory: Path

    def get(self, *key: object) -> dict[str, Any] | None:
        """Give a result, or None where there is none that can be read."""
        with suppress(OSError, ValueError):
            value = json.loads(self._path(key).read_text(encoding="utf-8"))
            return value if isinstance(value, dict) else None
        return None

    def put(self, value: dict[str, Any], *key: object) -> None:
        """Keep a result; a cache that cannot be written keeps nothing."""
        path = self._path(key)
        with suppress(OSError):
            self.directory.mkdir(parents=True, exist_ok=True)
            partial = path.with_suffix(f".{os.getpid()}")
            partial.write_text(json.dumps(value), encoding="utf-8")
            partial.replace(path)

    def _path(self, key: tuple[object, ...]) -> Path:
        return self.directory / f"{hashlib.sha256(repr((_FORMAT, *key)).encode()).hexdigest()[:32]}.json"


def user_cache() -> Cache:
    """Return the results in the user's cache directory."""
    cache = os.environ.get("XDG_CACHE_HOME", "")
    return Cache((Path(cache) if cache else Path.home() / ".cache") / "gguf-convert" / "report")


def file_sha256(*parts: Path) -> str:
    """Hash a file's bytes; of one in parts, theirs one after another."""
    digest = hashlib.sha256()
    for path in parts:
        with path.open("rb") as file:
            while piece := file.read(1 << 20):
                digest.update(piece)
    return digest.hexdigest()
