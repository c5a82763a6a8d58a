"""A git that cannot be used: variables of another repository, broken configuration, a stub; never a traceback."""

from __future__ import annotations

from typing import TYPE_CHECKING

import git
import pytest

from convert.errors import Remedy, ToolchainError
from convert.llama_cpp import git_source, pypi_source, source
from convert.llama_cpp.pin import COMMIT
from convert.llama_cpp.reporter import Silent
from convert.llama_cpp.where import Home

if TYPE_CHECKING:
    from pathlib import Path

NOBODY = git.Actor("someone", "someone@example.org")


@pytest.fixture(scope="module")
def fork(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Make a repository that has not the pinned commit: its URL."""
    folder = tmp_path_factory.mktemp("git") / "fork"
    with git.Repo.init(folder, initial_branch="master") as repository:
        (folder / "CMakeLists.txt").touch()
        repository.index.add(["CMakeLists.txt"])
        repository.index.commit("x", author=NOBODY, committer=NOBODY)
    return folder.as_uri()


@pytest.mark.parametrize(
    "variables",
    [
        {"GIT_DIR": "/nowhere"},
        {"GIT_DIR": "EXISTING/.git", "GIT_WORK_TREE": "EXISTING", "GIT_INDEX_FILE": "EXISTING/.git/index"},
        {"GIT_OBJECT_DIRECTORY": "/nowhere", "GIT_COMMON_DIR": "/nowhere"},
        {"GIT_CONFIG": "/nowhere", "GIT_NAMESPACE": "x"},
    ],
    ids="+".join,
)
def test_variables_of_another_repository_change_nothing(
    variables: dict[str, str], fork: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    git.Repo.init(tmp_path / "existing").close()
    for name, value in variables.items():
        monkeypatch.setenv(name, value.replace("EXISTING", str(tmp_path / "existing")))
    tree = source.fetch(fork, "master", Home(tmp_path / "home"), Silent())
    assert (tree.path / "CMakeLists.txt").is_file()
    assert sorted(path.name for path in (tmp_path / "existing").iterdir()) == [".git"]
    assert git_source.commit_of(tree.path) == tree.commit


def _stub(folder: Path, script: str) -> str:
    folder.mkdir()
    (folder / "git").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "git").chmod(0o755)
    return str(folder)


BROKEN = {
    "stub": "echo 'xcrun: error: invalid active developer path' >&2; exit 1",
    "silent": "exit 1",
    "killed": "kill -9 $$",
}


@pytest.mark.parametrize("kind", [*BROKEN, "gitconfig", "binary gitconfig", "no home"])
def test_a_git_that_does_not_work_is_an_error_and_auto_goes_on(
    kind: str, fork: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kind in BROKEN:
        monkeypatch.setenv("PATH", _stub(tmp_path / "bin", BROKEN[kind]), prepend=":")
    else:
        monkeypatch.setenv("HOME", str(tmp_path / "user"))
        monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
        if kind != "no home":
            (tmp_path / "user").mkdir()
            broken = b"no section\n" if kind == "gitconfig" else b"\xff\xfe[user\0]\n"
            (tmp_path / "user" / ".gitconfig").write_bytes(broken)
    if kind == "no home":
        assert source.fetch(fork, "master", Home(tmp_path / "home"), Silent()).origin == f"git {fork}"
        return
    with pytest.raises(ToolchainError, match="git cannot"):
        source.fetch(fork, "master", Home(tmp_path / "home"), Silent())
    monkeypatch.setattr(source, "GIT_URL", fork)
    monkeypatch.setattr(pypi_source, "fetch", lambda into, **_: (into / "CMakeLists.txt").touch())
    assert source.fetch("auto", None, Home(tmp_path / "home"), Silent()).origin.startswith("PyPI")


def test_gits_own_advice_is_kept(tmp_path: Path, fork: str, monkeypatch: pytest.MonkeyPatch) -> None:
    said = ["fatal: detected dubious ownership in repository at '/x'", "To add an exception, call:", ""]
    script = "\n".join(f'echo "{line}" >&2' for line in [*said, "\tgit config --global --add safe.directory /x"])
    monkeypatch.setenv("PATH", _stub(tmp_path / "bin", f"{script}\nexit 128"), prepend=":")
    with pytest.raises(ToolchainError, match="detected dubious ownership") as caught:
        source.fetch(fork, "master", Home(tmp_path / "home"), Silent())
    assert caught.value.hint == "git config --global --add safe.directory /x"


def test_a_fork_without_the_pinned_commit_says_what_to_name(fork: str, tmp_path: Path) -> None:
    with pytest.raises(ToolchainError, match=f"git cannot fetch `{COMMIT}`") as caught:
        source.fetch(fork, None, Home(tmp_path), Silent())
    assert caught.value.remedies == (Remedy.OTHER_COMMIT,)
    with pytest.raises(ToolchainError) as caught:
        source.fetch("file:///gone", None, Home(tmp_path), Silent())
    assert caught.value.remedies == ()
