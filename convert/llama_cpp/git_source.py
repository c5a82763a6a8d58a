"""llama.cpp from a git host, with GitPython: one commit, without history."""

from __future__ import annotations

import os
import re
import shutil
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Final

from convert.errors import ToolchainError
from convert.llama_cpp.toolchain import missing_tools

if TYPE_CHECKING:
    from pathlib import Path
    from types import ModuleType
    from typing import Any

    from convert.llama_cpp.reporter import Reporter

REACH_TIMEOUT_S: Final = 30.0
# Never ask for a password; give up on a connection that carries less than 1 kB/s for half a minute.
_ENVIRONMENT: Final = {"GIT_TERMINAL_PROMPT": "0", "GIT_HTTP_LOW_SPEED_LIMIT": "1000", "GIT_HTTP_LOW_SPEED_TIME": "30"}
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

    Raises ToolchainError where git is missing, the host does not answer, or no such ref exists.
    """
    git = _gitpython()
    asking = git.Git()
    asking.update_environment(**_ENVIRONMENT)
    wanted = (f"refs/tags/{ref}^{{}}", f"refs/tags/{ref}", f"refs/heads/{ref}")
    try:
        # HEAD is asked for as well: a repository that answers nothing at all would be no repository.
        listing = asking.ls_remote("--", url, "HEAD", *wanted, kill_after_timeout=REACH_TIMEOUT_S)
    except git.GitCommandError as error:
        raise ToolchainError(f"git cannot read `{url}`: {_said(error)}") from error
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
    git = _gitpython()
    try:
        repository = git.Repo.init(into)
        try:
            repository.git.update_environment(**_ENVIRONMENT)
            commit = _fetched(git, repository, remote, reporter)
            repository.git.checkout("--quiet", "--detach", commit)
            return str(repository.head.commit.hexsha)
        finally:
            repository.close()
    except (git.GitCommandError, ValueError) as error:
        raise ToolchainError(f"git cannot fetch `{remote.ref}` of `{remote.url}`: {_said(error)}") from error


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
    if not (tree / ".git").exists() or shutil.which("git") is None:
        return None
    git = _gitpython()
    try:
        with git.Repo(tree) as repository:
            return str(repository.head.commit.hexsha)
    except (git.InvalidGitRepositoryError, git.GitCommandError, ValueError):
        return None


def _progress(git: ModuleType, reporter: Reporter) -> Any:  # noqa: ANN401 - a class that GitPython makes on import
    class Listening(git.RemoteProgress):  # type: ignore[misc,name-defined]
        def update(self, op_code: int, cur_count: float, max_count: float | None = None, message: str = "") -> None:
            del op_code
            reporter.advance(f"fetching {message}".strip(), float(cur_count), float(max_count or 0))

    return Listening()


def _gitpython() -> ModuleType:
    if shutil.which("git") is None:
        raise missing_tools("fetching from a git host needs", ["git"])
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
    return import_module("git")  # only now: it starts a program when imported


def _said(error: Exception) -> str:
    text = str(getattr(error, "stderr", "") or error)
    lines = [line.strip(" '\"") for line in text.replace("stderr:", "").splitlines() if line.strip(" '\"")]
    chosen = next((line for line in lines if line.startswith("fatal:")), lines[-1] if lines else "it said nothing")
    return chosen.removeprefix("fatal:").strip().rstrip(".")
