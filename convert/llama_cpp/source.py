"""Where llama.cpp's tree comes from: a git host, PyPI, any git URL, or a folder that is already there."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from convert.errors import Remedy, ToolchainError, UsageError
from convert.llama_cpp import git_source, pypi_source
from convert.llama_cpp.pin import COMMIT, GIT_URL, SDIST
from convert.llama_cpp.reporter import Reporter, Silent
from convert.llama_cpp.where import Home, appearing, home, locked

if TYPE_CHECKING:
    from collections.abc import Callable

_SCP_LIKE: Final = re.compile(r"[\w.-]+@[\w.-]+:.+")
_REFS: Final = "refs.json"
_COMMIT: Final = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True, slots=True)
class Tree:
    """A whole source tree. `commit` is what it is, `origin` where it came from.

    `changes`: it is someone's working folder, which may be edited between two builds.
    """

    path: Path
    commit: str
    origin: str
    changes: bool = False


def known_commit(source: str, ref: str | None) -> str | None:
    """Tell the commit that is wanted, where that needs no network: the pin, or a whole commit."""
    if _is_folder(source):
        return None
    if ref is None:
        return COMMIT
    return ref if _COMMIT.fullmatch(ref) else None


def fetch(source: str, ref: str | None, place: Home, reporter: Reporter) -> Tree:
    """Bring the tree here, unless it already is. The caller holds the lock of `place`.

    source: `auto`, `git`, `pypi`, a git URL, or the path of a source tree. ref: a tag, a branch or a commit.
    Raises UsageError for a source that makes no sense, ToolchainError where it cannot be had.
    """
    check(source, ref)
    if _is_folder(source):
        return _folder(Path(source))
    commit = known_commit(source, ref)
    if commit is not None and (tree := _find(place, commit)) is not None:
        return tree
    if source == "pypi":
        return _from_pypi(place, reporter, origin=f"PyPI ({SDIST})")
    if source == "auto":
        return _auto(ref, place, reporter)
    return _from_git(GIT_URL if source == "git" else source, ref, place, reporter)


def fetched_as(place: Home) -> dict[str, str]:
    """Tell which commit each tag or branch was when it was last fetched."""
    try:
        known = json.loads((place.path / _REFS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return {str(ref): str(commit) for ref, commit in known.items()} if isinstance(known, dict) else {}


def fetch_tree(
    source: str = "auto", ref: str | None = None, *, directory: Path | None = None, reporter: Reporter | None = None
) -> Tree:
    """Bring a source tree here without building it, which is enough to run llama.cpp's converter.

    The arguments are those of `build_llamacpp`, and so is the place.
    """
    place, telling = home(directory), reporter or Silent()
    with locked(place, telling):
        return fetch(source, ref, place, telling)


def check(source: str, ref: str | None) -> None:
    """Raise UsageError for a source and a ref that make no sense."""
    if ref is not None and (not ref or ref.startswith("-") or re.search(r"[\s~^:?*\[\\]|\.\.", ref)):
        raise UsageError(f"`{ref}` is not the name of a tag, a branch or a commit")
    if source.startswith("-"):
        raise UsageError(f"the source `{source}` is neither a URL nor a path")
    if ref is not None and ref != COMMIT and source == "pypi":
        raise UsageError(f"PyPI carries the pinned commit only, `{ref}` needs the source `git`")
    if _is_folder(source) and ref is not None:
        raise UsageError(f"`{ref}` does not go with a local path: check it out there first")
    if _is_folder(source) and not Path(source).expanduser().is_dir():
        raise UsageError(
            f"the source `{source}` is not a folder", hint="wanted: auto, git, pypi, a git URL, or a source tree's path"
        )


def _is_folder(source: str) -> bool:
    return source not in {"auto", "git", "pypi"} and "://" not in source and not _SCP_LIKE.fullmatch(source)


def _auto(ref: str | None, place: Home, reporter: Reporter) -> Tree:
    try:
        return _from_git(GIT_URL, ref, place, reporter)
    except ToolchainError as git_error:
        if ref is not None and ref != COMMIT:
            raise
        reporter.say(f"source: PyPI, because {git_error.message}")
        try:
            return _from_pypi(place, reporter, origin=f"PyPI ({SDIST})")
        except ToolchainError as pypi_error:
            raise ToolchainError(
                f"llama.cpp can be had from neither git nor PyPI: {git_error.message}; {pypi_error.message}",
                remedies=(Remedy.OWN_SOURCE,),
            ) from pypi_error


def _from_pypi(place: Home, reporter: Reporter, *, origin: str) -> Tree:
    return _keep(place, COMMIT, origin, lambda tree: pypi_source.fetch(tree, log=place.path / "pip.log", tell=reporter))


def _from_git(url: str, ref: str | None, place: Home, reporter: Reporter) -> Tree:
    reporter.say(f"source: git {url}, {ref or COMMIT}")
    remote = git_source.reach(url, ref or COMMIT)
    try:
        tree = _fetched(remote, url, place, reporter)
    except ToolchainError as error:
        if ref is None and url != GIT_URL:  # a fork, perhaps of another time
            raise ToolchainError(error.message, hint=error.hint, remedies=(Remedy.OTHER_COMMIT,)) from error
        raise
    if ref is not None:
        (place.path / _REFS).write_text(json.dumps(fetched_as(place) | {ref: tree.commit}, indent=2), "utf-8")
    return tree


def _fetched(remote: git_source.Remote, url: str, place: Home, reporter: Reporter) -> Tree:
    if remote.commit is not None and (tree := _find(place, remote.commit)) is not None:
        return tree
    name = remote.commit or f"unresolved-{remote.ref}"
    fetched: list[str] = []
    tree = _keep(place, name, f"git {url}", lambda folder: fetched.append(git_source.fetch(remote, folder, reporter)))
    if remote.commit is None:  # an abbreviated commit: what it stands for is known only now
        whole = place.sources / fetched[0]
        if not whole.is_dir():
            (place.sources / name).rename(whole)
            (whole / "source.json").write_text(_as_json(fetched[0], tree.origin), encoding="utf-8")
        return Tree(whole / "tree", fetched[0], tree.origin)
    return tree


def _keep(place: Home, commit: str, origin: str, fill: Callable[[Path], object]) -> Tree:
    """Fill a fresh folder with the tree; it appears under its commit when it is whole."""
    with appearing(place.sources / commit) as partial:
        tree = partial / "tree"
        tree.mkdir()
        fill(tree)
        _require_cmake_project(tree)
        (partial / "source.json").write_text(_as_json(commit, origin), encoding="utf-8")
    return Tree(place.sources / commit / "tree", commit, origin)


def _as_json(commit: str, origin: str) -> str:
    return json.dumps({"commit": commit, "origin": origin}, indent=2) + "\n"


def _find(place: Home, commit: str) -> Tree | None:
    folder = place.sources / commit
    try:
        facts: dict[str, Any] = json.loads((folder / "source.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return Tree(folder / "tree", commit, str(facts.get("origin", "unknown")))


def _folder(path: Path) -> Tree:
    tree = path.expanduser().resolve()
    _require_cmake_project(tree)
    commit = git_source.commit_of(tree)
    # Without git the folder's own name has to do: what is built from it is told apart by where it is.
    name = commit or f"folder-{hashlib.sha256(str(tree).encode()).hexdigest()[:8]}"
    return Tree(tree, name, f"folder {tree}", changes=True)


def _require_cmake_project(tree: Path) -> None:
    if not (tree / "CMakeLists.txt").is_file():
        raise ToolchainError(f"`{tree}` is no source tree of llama.cpp: it has no CMakeLists.txt")
    git = tree / ".git"
    if git.is_file() and not _git_folder(git).is_dir():
        raise ToolchainError(
            f"`{git}` names a git folder that is not there, over which Ninja would configure again without end",
            hint=f"remove it: rm '{git}'",
        )


def _git_folder(link: Path) -> Path:
    return link.parent / link.read_text(encoding="utf-8", errors="replace").removeprefix("gitdir:").strip()
