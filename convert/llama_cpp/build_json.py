"""`build.json`: what a finished build is, written last, so that its presence says that the build is whole."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from convert.errors import ToolchainError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from convert.llama_cpp.where import Home

NAME: Final = "build.json"


@dataclass(frozen=True, slots=True)
class Build:
    """A finished build. programs: role to path; aliases: name to the program's name; seconds: of the last build."""

    directory: Path
    commit: str
    source: str
    tree: Path
    backend: str
    reason: str
    options: Mapping[str, Any]
    compilers: Mapping[str, str]
    cmake: str
    configure: tuple[str, ...]
    programs: Mapping[str, Path]
    aliases: Mapping[str, str]
    finished: str
    seconds: float

    @property
    def bin(self) -> Path:
        """Return the folder of the programs and libraries."""
        return self.programs["quantize"].parent

    @property
    def log(self) -> Path:
        """Return the file with all that CMake and the compilers said."""
        return self.directory / "build.log"

    def library(self, name: str) -> Path:
        """Return the shared library `name`, such as `ggml-base`. Raises ToolchainError if the build has none."""
        paths = [self.bin / f"lib{name}{suffix}" for suffix in (".so", ".dylib")]
        if (found := next((path for path in paths if path.is_file()), None)) is None:
            raise ToolchainError(f"the build in `{self.directory}` has no library `{name}`")
        return found

    def as_json(self) -> dict[str, Any]:
        """Return plain values, as `build.json` has them but with whole paths."""
        document = asdict(self) | {"programs": {role: str(path) for role, path in self.programs.items()}}
        return document | {"directory": str(self.directory), "tree": str(self.tree), "configure": list(self.configure)}


def write_build(build: Build) -> None:
    """Write `build.json`, whole or not at all."""
    document = build.as_json()
    del document["directory"]
    document["programs"] = {role: os.path.relpath(path, build.directory) for role, path in build.programs.items()}
    partial = build.directory / f".{NAME}"
    partial.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    partial.replace(build.directory / NAME)


def read_build(directory: Path) -> Build | None:
    """Read a finished build; None where there is none, or one of its programs is gone."""
    try:
        facts = json.loads((directory / NAME).read_text(encoding="utf-8"))
        facts["programs"] = {role: directory / path for role, path in facts["programs"].items()}
        build = Build(directory=directory, **facts | {"tree": Path(facts["tree"]), "configure": (*facts["configure"],)})
    except (OSError, ValueError, KeyError, TypeError):
        return None
    whole = "quantize" in build.programs and all(os.access(path, os.X_OK) for path in build.programs.values())
    return build if whole and not (directory / "unfinished").exists() else None


def read_builds(places: Iterable[Home]) -> list[Build]:
    """Read every finished build in these homes, the newest of each home first."""
    found: list[Build] = []
    for place in places:
        builds = (read_build(directory) for directory in sorted(place.builds.glob("*/")))
        found += sorted((build for build in builds if build), key=lambda build: build.finished, reverse=True)
    return found
