"""llama.cpp from a git host, with GitPython: one commit, without history."""

from __future__ import annotations

import configparser
import contextlib
import os
import re
import shutil
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Final

from convert.errors import ToolchainError
from convert.llama_cpp.toolchain import missing_tools

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from types import ModuleType
    from typing import Any

    from convert.llama_cpp.reporter import Reporter

REACH_TIMEOUT_S: Final = 30.0
# Never ask for a password; give up on a connection that carries less than 1 kB/s for half a minute.
_ENVIRONMENT: Final = {"GIT_TERMINAL_PROMPT": "0", "GIT_HTTP_LOW_SPEED_LIMIT": "1000", "GIT_HTTP_LOW_SPEED_TIME": "30"}
# Set inside a hook, a rebase, or a shell that works on a bare repository: all git does would be done there.
# Source: git's `rev-parse --local-env-vars`; but for what passes configuration on, which is the user's wish.
_OF_ANOTHER_REPOSITORY: Final = (
    "GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY", "GIT_ALTERNATE_OBJECT_DIRECTORIES",
    "GIT_COMMON_DIR", "GIT_NAMESPACE", "GIT_PREFIX", "GIT_SHALLOW_FILE", "GIT_GRAFT_FILE", "GIT_IMPLICIT_WORK_TREE",
    "GIT_QUARANTINE_PATH", "GIT_TEMPLATE_DIR", "GIT_CONFIG",
)  # fmt: skip
_COMMIT: Final = re.compile(r"[0-9a-f]{40}")
_ABBREVIATED: Final = re.compile(r"[0-9a-f]{4,39}")


@dataclass(frozen=True, slots=True)
class Remote:
    """A repository that answered, and what `ref` is there; `commit` is None for an abbreviated commit."""

    url: str
    ref: str
    commit: str | None


def reach(url: str, ref: str) -> Remote:
    """Ask the repository what `ref` is: a whole commit is itself, then a tag, then a branch.

    Raises ToolchainError where git is missing or does not work, the host does not answer, or no such ref exists.
    """
    wanted = (f"refs/tags/{ref}^{{}}", f"refs/tags/{ref}", f"refs/heads/{ref}")
    with _git(f"read `{url}`") as git:
        asking = git.Git()
        asking.update_environment(**_ENVIRONMENT)
        # HEAD is asked for as well: a repository that answers nothing at all would be no repository.
        listing = asking.ls_remote("--", url, "HEAD", *wanted, kill_after_timeout=REACH_TIMEOUT_S)
    found = dict(line.split("\t", 1)[::-1] for line in listing.splitlines() if "\t" in line)
    if _COMMIT.fullmatch(ref):
        return Remote(url, ref, ref)
    commit = next((found[name] for name in wanted if name in found), None)
    if commit is None and not _ABBREVIATED.fullmatch(ref):
        raise ToolchainError(f"`{url}` has no tag, branch or commit `{ref}`")
    return Remote(url, ref, commit)


def fetch(remote: Remote, into: Path, reporter: Reporter) -> str:
    """Fetch one commit into the empty folder `into`, check it out, and return it whole.

    Shallow where the host gives single commits; else every commit without its files, then the files of the one.
    """
    with _git(f"fetch `{remote.ref}` of `{remote.url}`") as git, git.Repo.init(into) as repository:
        repository.git.update_environment(**_ENVIRONMENT)
        commit = _fetched(git, repository, remote, reporter)
        repository.git.checkout("--quiet", "--detach", commit)
        return str(repository.head.commit.hexsha)


def _fetched(git: ModuleType, repository: Any, remote: Remote, reporter: Reporter) -> str:  # noqa: ANN401 - no types
    origin = repository.create_remote("origin", remote.url)
    progress = _progress(git, reporter)
    if remote.commit is not None:
        try:
            origin.fetch(remote.commit, progress=progress, depth=1, no_tags=True)
        except git.GitCommandError:
            reporter.say("the git host does not give a single commit; fetching all of them, without their files")
        else:
            return remote.commit
    origin.fetch("+refs/heads/*:refs/remotes/origin/*", progress=progress, filter="blob:none", tags=True)
    return str(repository.git.rev_parse("--verify", f"{remote.commit or remote.ref}^{{commit}}"))


def commit_of(tree: Path) -> str | None:
    """Tell the commit of a checkout, if it is one."""
    if not (tree / ".git").exists():
        return None
    try:
        with _git(f"read `{tree}`") as git, git.Repo(tree) as repository:
            return str(repository.head.commit.hexsha)
    except ToolchainError:
        return None


def _progress(git: ModuleType, reporter: Reporter) -> Any:  # noqa: ANN401 - a class that GitPython makes on import
    class Listening(git.RemoteProgress):  # type: ignore[misc,name-defined]
        def update(self, op_code: int, cur_count: float, max_count: float | None = None, message: str = "") -> None:
            del op_code
            reporter.advance(f"fetching {message}".strip(), float(cur_count), float(max_count or 0))

    return Listening()


@contextlib.contextmanager
def _git(what: str) -> Iterator[ModuleType]:
    """Give GitPython, in an environment that names no other repository; whatever it cannot do is a ToolchainError.

    It imports by starting git, reads every config of the user's by itself, and each can be broken in ways of its own.
    """
    if shutil.which("git") is None:
        raise missing_tools("fetching from a git host needs", ["git"])
    kept = {name: os.environ.pop(name) for name in _OF_ANOTHER_REPOSITORY if name in os.environ}
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
    try:
        yield import_module("git")
    except (ImportError, OSError, ValueError, configparser.Error) as error:
        raise _git_error(what, error) from error
    except Exception as error:
        if not type(error).__module__.startswith("git"):  # its own errors have no root that all its versions share
            raise
        raise _git_error(what, error) from error
    finally:
        os.environ.update(kept)


def _git_error(what: str, error: Exception) -> ToolchainError:
    """Take git's own words: what is fatal, and its advice."""
    text = str(getattr(error, "stderr", "") or error)
    lines = [line.strip(" '\"\t") for line in text.replace("stderr:", "").splitlines() if line.strip(" '\"\t")]
    at = next((place for place, line in enumerate(lines) if line.startswith("fatal:")), len(lines) - 1)
    said = lines[at].removeprefix("fatal:").strip().rstrip(".") if lines else "it said nothing"
    advice = [line.removeprefix("hint: ") for line in lines[at + 1 :] if line.startswith(("hint:", "git config"))]
    return ToolchainError(f"git cannot {what}: {said}", hint="\n".join(advice) or None)
