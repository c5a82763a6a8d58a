"""Where llama.cpp's tree comes from: git repositories made here, PyPI for real, and archives that mean harm."""

from __future__ import annotations

import importlib.util
import io
import json
import tarfile
import zipfile
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import git
import pytest

from convert.errors import ToolchainError, UsageError
from convert.llama_cpp import cuda, git_source, pypi_source, source
from convert.llama_cpp.pin import COMMIT, SDIST, SDIST_TREE
from convert.llama_cpp.reporter import Silent
from convert.llama_cpp.unpack import unpack_tar, unpack_zip
from convert.llama_cpp.where import Home

if TYPE_CHECKING:
    from collections.abc import Sequence

    from convert.errors import Remedy

TREE = PurePosixPath("sdist/vendor/llama.cpp")
NOBODY = git.Actor("someone", "someone@example.org")


class Listening(Silent):
    """Keeps the lines."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str, remedies: Sequence[Remedy] = ()) -> None:
        """Keep a line."""
        del remedies
        self.lines.append(text)


def _commit(repository: git.Repo, text: str) -> str:
    (Path(repository.working_dir) / "CMakeLists.txt").write_text(text)
    repository.index.add(["CMakeLists.txt"])
    return str(repository.index.commit(text, author=NOBODY, committer=NOBODY).hexsha)


@pytest.fixture(scope="module")
def commits(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, str]]:
    """Make a repository: its URL, and its commits by what its CMakeLists.txt says there."""
    folder = tmp_path_factory.mktemp("git") / "llama.cpp"
    with git.Repo.init(folder, initial_branch="master") as repository:
        made = {"first": _commit(repository, "first")}
        repository.create_tag("b1")
        made["second"] = _commit(repository, "second")
        repository.create_tag("v2", message="annotated")
        made["third"] = _commit(repository, "third")
    return folder.as_uri(), made


@pytest.mark.parametrize(
    ("ref", "text"), [("b1", "first"), ("v2", "second"), ("master", "third"), ("FULL", "second"), ("SHORT", "first")]
)
def test_a_tag_a_branch_or_a_commit_is_fetched(
    ref: str, text: str, commits: tuple[str, dict[str, str]], tmp_path: Path
) -> None:
    url, made = commits
    name = {"FULL": made[text], "SHORT": made[text][:8]}.get(ref, ref)
    tree = source.fetch(url, name, Home(tmp_path), Silent())
    assert (tree.path / "CMakeLists.txt").read_text() == text
    assert (tree.commit, tree.origin) == (made[text], f"git {url}")
    assert tree.path == tmp_path / "sources" / made[text] / "tree"
    with git.Repo(tree.path) as repository:
        assert repository.head.commit.hexsha == made[text]


def test_one_commit_is_fetched_without_its_history(commits: tuple[str, dict[str, str]], tmp_path: Path) -> None:
    url, made = commits
    tree = source.fetch(url, made["third"], Home(tmp_path), Silent())
    with git.Repo(tree.path) as repository:
        assert len(list(repository.iter_commits())) == 1


def test_a_host_that_refuses_single_commits_is_asked_for_all(
    commits: tuple[str, dict[str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, made = commits
    monkeypatch.setenv("GIT_CONFIG_COUNT", "1")  # the old protocol, in which only tips may be asked for
    monkeypatch.setenv("GIT_CONFIG_KEY_0", "protocol.version")
    monkeypatch.setenv("GIT_CONFIG_VALUE_0", "0")
    listening = Listening()
    with git.Repo.init(tmp_path / "hidden", initial_branch="master") as repository:
        wanted = _commit(repository, "buried")
        _commit(repository, "tip")
    tree = source.fetch((tmp_path / "hidden").as_uri(), wanted, Home(tmp_path / "home"), listening)
    assert (tree.path / "CMakeLists.txt").read_text() == "buried"
    assert any("fetching all of them" in line for line in listening.lines)
    assert made
    assert url


def test_a_tree_that_is_here_is_not_fetched_again(commits: tuple[str, dict[str, str]], tmp_path: Path) -> None:
    url, made = commits
    first = source.fetch(url, "v2", Home(tmp_path), Silent())
    (first.path / "mark").touch()
    assert source.fetch(url, "v2", Home(tmp_path), Silent()) == first
    assert source.fetch("git", made["second"], Home(tmp_path), Silent()) == first
    assert (first.path / "mark").exists()


def test_a_tree_that_was_spoilt_is_fetched_again(commits: tuple[str, dict[str, str]], tmp_path: Path) -> None:
    first = source.fetch(commits[0], "v2", Home(tmp_path), Silent())
    (first.path.parent / "source.json").write_text("{")
    (first.path / "CMakeLists.txt").unlink()
    assert source.fetch(commits[0], "v2", Home(tmp_path), Silent()) == first
    assert (first.path / "CMakeLists.txt").read_text() == "second"


def test_a_ref_that_is_not_there_is_an_error(commits: tuple[str, dict[str, str]], tmp_path: Path) -> None:
    with pytest.raises(ToolchainError, match="has no tag, branch or commit `v3`"):
        source.fetch(commits[0], "v3", Home(tmp_path), Silent())
    with pytest.raises(ToolchainError, match="cannot fetch"):
        source.fetch(commits[0], "0" * 40, Home(tmp_path), Silent())
    assert not list((tmp_path / "sources").iterdir())


def test_a_host_that_does_not_answer_is_an_error_with_what_git_said(tmp_path: Path) -> None:
    with pytest.raises(ToolchainError, match=r"git cannot read `file:///gone`: .*gone") as caught:
        source.fetch("file:///gone", None, Home(tmp_path), Silent())
    assert "\n" not in caught.value.message


def test_a_repository_of_something_else_is_an_error(tmp_path: Path) -> None:
    with git.Repo.init(tmp_path / "other", initial_branch="master") as repository:
        (tmp_path / "other" / "README").touch()
        repository.index.add(["README"])
        repository.index.commit("x", author=NOBODY, committer=NOBODY)
    with pytest.raises(ToolchainError, match=r"it has no CMakeLists\.txt"):
        source.fetch((tmp_path / "other").as_uri(), "master", Home(tmp_path), Silent())


def test_without_git_the_error_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ToolchainError, match="needs `git`") as caught:
        source.fetch("git", None, Home(tmp_path), Silent())
    assert "apt install git" in (caught.value.hint or "")


def test_auto_takes_git_where_it_answers(
    commits: tuple[str, dict[str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source, "GIT_URL", commits[0])
    tree = source.fetch("auto", "b1", Home(tmp_path), Silent())
    assert tree.origin == f"git {commits[0]}"


def test_auto_falls_back_to_pypi_and_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "GIT_URL", "file:///gone")
    monkeypatch.setattr(pypi_source, "fetch", lambda into, **_: (into / "CMakeLists.txt").touch())
    listening = Listening()
    tree = source.fetch("auto", None, Home(tmp_path), listening)
    assert (tree.commit, tree.origin) == (COMMIT, f"PyPI ({SDIST})")
    assert any(line.startswith("source: PyPI, because git cannot read `file:///gone`") for line in listening.lines)
    assert json.loads((tree.path.parent / "source.json").read_text())["commit"] == COMMIT


def test_auto_names_both_reasons_where_neither_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(into: Path, **_: object) -> None:
        raise ToolchainError(f"no index for {into.name}")

    monkeypatch.setattr(source, "GIT_URL", "file:///gone")
    monkeypatch.setattr(pypi_source, "fetch", refuse)
    with pytest.raises(ToolchainError, match=r"neither git nor PyPI: git cannot read .*; no index for tree"):
        source.fetch("auto", None, Home(tmp_path), Silent())


def test_auto_does_not_replace_another_ref_by_the_pinned_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "GIT_URL", "file:///gone")
    with pytest.raises(ToolchainError, match="git cannot read"):
        source.fetch("auto", "b1", Home(tmp_path), Silent())


def test_a_tree_can_be_had_without_a_build(commits: tuple[str, dict[str, str]], tmp_path: Path) -> None:
    tree = source.fetch_tree(commits[0], "b1", directory=tmp_path)
    assert tree.path == tmp_path / "sources" / commits[1]["first"] / "tree"
    assert not (tmp_path / "builds").exists()


def test_a_folder_is_taken_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "CMakeLists.txt").touch()
    tree = source.fetch(str(tmp_path), None, Home(tmp_path / "home"), Silent())
    assert (tree.path, tree.changes) == (tmp_path, True)
    assert tree.commit.startswith("folder-")


def test_a_checkout_is_known_by_its_commit(commits: tuple[str, dict[str, str]], tmp_path: Path) -> None:
    folder = Path(commits[0].removeprefix("file://"))
    assert source.fetch(str(folder), None, Home(tmp_path), Silent()).commit == commits[1]["third"]
    with pytest.raises(UsageError, match="check it out there"):
        source.fetch(str(folder), "b1", Home(tmp_path), Silent())


def test_a_folder_whose_git_folder_is_gone_is_an_error_that_says_what_to_remove(tmp_path: Path) -> None:
    (tmp_path / "CMakeLists.txt").touch()
    (tmp_path / ".git").write_text("gitdir: ../.git/modules/llama.cpp\n")
    with pytest.raises(ToolchainError, match="not there") as caught:
        source.fetch(str(tmp_path), None, Home(tmp_path), Silent())
    assert caught.value.hint == f"remove it: rm '{tmp_path}/.git'"


def test_git_never_asks_for_a_password() -> None:
    assert git_source._ENVIRONMENT["GIT_TERMINAL_PROMPT"] == "0"


@pytest.mark.llama_cpp
def test_pypi_carries_the_pinned_tree(tmp_path: Path) -> None:
    listening = Listening()
    tree = source.fetch("pypi", None, Home(tmp_path), listening)
    assert (tree.commit, tree.origin) == (COMMIT, f"PyPI ({SDIST})")
    for path in ("CMakeLists.txt", "convert_hf_to_gguf.py", "ggml/src/ggml-quants.c", "tools/quantize/quantize.cpp"):
        assert (tree.path / path).is_file()
    assert not (tree.path / ".git").exists()
    assert [path.name for path in (tmp_path / "sources").iterdir()] == [COMMIT]
    assert listening.lines[0].startswith(f"source: downloading {SDIST}")


def test_a_source_distribution_that_is_not_the_pinned_one_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def download(command: Sequence[str], **_: object) -> None:
        (Path(command[command.index("--dest") + 1]) / "llama_cpp_python.tar.gz").write_bytes(b"other")

    monkeypatch.setattr(pypi_source, "run", download)
    with pytest.raises(
        ToolchainError, match="has sha256 d9298a10d1b0735837dc4bd85dac641b0f3cef27a47e5d53a54f2f3f5b2fcffa, "
    ):
        source.fetch("pypi", None, Home(tmp_path), Silent())
    assert not list((tmp_path / "sources").iterdir())


def test_pip_is_given_the_hash_and_nothing_else_to_download(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands: list[Sequence[str]] = []
    requirements: list[str] = []

    def download(command: Sequence[str], **_: object) -> None:
        commands.append(command)
        requirements.append(Path(command[-1]).read_text())

    monkeypatch.setattr(pypi_source, "run", download)
    with pytest.raises(ToolchainError, match="left 0 archives"):
        source.fetch("pypi", None, Home(tmp_path), Silent())
    assert commands[0][1:4] == ["-m", "pip", "download"]
    assert {"--no-deps", "--no-binary"} < set(commands[0])
    assert requirements[0].startswith(f"{SDIST} --hash=sha256:")


def test_without_pip_the_error_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ToolchainError, match="needs `pip`") as caught:
        source.fetch("pypi", None, Home(tmp_path), Silent())
    assert "ensurepip" in (caught.value.hint or "")


def _tar(path: Path, members: Sequence[tuple[str, bytes, str]]) -> Path:
    kinds = {"file": tarfile.REGTYPE, "symlink": tarfile.SYMTYPE, "link": tarfile.LNKTYPE, "fifo": tarfile.FIFOTYPE}
    with tarfile.open(path, "w:gz") as archive:
        for name, content, kind in members:
            member = tarfile.TarInfo(name)
            member.type, member.size, member.mtime = kinds[kind], len(content), 1
            member.mode = 0o755 if name.endswith(".sh") else 0o644
            member.linkname = "/etc/passwd" if kind in {"symlink", "link"} else ""
            archive.addfile(member, io.BytesIO(content))
    return path


def test_only_the_tree_is_unpacked_with_times_of_now(tmp_path: Path) -> None:
    inside = f"{TREE}/src"
    members = [("sdist/setup.py", b"no", "file"), (f"{inside}/a.c", b"a", "file"), (f"{inside}/run.sh", b"b", "file")]
    unpack_tar(_tar(tmp_path / "a.tar.gz", members), tmp_path / "out", tree=TREE)
    found = sorted(path for path in (tmp_path / "out").rglob("*") if path.is_file())
    assert [str(path.relative_to(tmp_path / "out")) for path in found] == ["src/a.c", "src/run.sh"]
    assert found[0].stat().st_mtime > 1_000_000_000
    assert [bool(path.stat().st_mode & 0o100) for path in found] == [False, True]


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        (f"{TREE}/../../../x", "file", "leads outside"),
        (f"{TREE}/x", "symlink", "not a plain file"),
        (f"{TREE}/x", "fifo", "not a plain file"),
        (f"{TREE}/x", "link", "not a plain file"),
    ],
)
def test_a_member_that_means_harm_is_refused(name: str, kind: str, message: str, tmp_path: Path) -> None:
    archive = _tar(tmp_path / "a.tar.gz", [(name, b"", kind)])
    with pytest.raises(ToolchainError, match=message):
        unpack_tar(archive, tmp_path / "out", tree=TREE)
    assert not (tmp_path / "x").exists()


def test_a_broken_archive_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.tar.gz").write_bytes(b"\x1f\x8b broken")
    with pytest.raises(ToolchainError, match="cannot be unpacked"):
        unpack_tar(tmp_path / "a.tar.gz", tmp_path / "out", tree=SDIST_TREE)
    (tmp_path / "a.whl").write_bytes(b"broken")
    with pytest.raises(ToolchainError, match="cannot be unpacked"):
        unpack_zip(tmp_path / "a.whl", tmp_path / "out", wanted=lambda _: True)


def _cuda(version: tuple[int, int]) -> cuda.Cuda:
    return cuda.Cuda(Path("/nvcc"), Path("/cuda"), version, None, None, ())


def test_cublas_comes_from_its_wheel_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands: list[Sequence[str]] = []

    def download(command: Sequence[str], **_: object) -> None:
        commands.append(command)
        with zipfile.ZipFile(Path(command[command.index("--dest") + 1]) / "c.whl", "w") as wheel:
            for name in ("lib/libcublas.so.13", "lib/libcublasLt.so.13", "lib/libnvblas.so.13", "include/cublas_v2.h"):
                wheel.writestr(f"nvidia/cu13/{name}", b"x")

    monkeypatch.setattr(cuda, "run", download)
    for _ in range(2):
        found = cuda.fetch_cublas(Home(tmp_path), _cuda((13, 0)), Silent())
    assert len(commands) == 1
    assert commands[0][-1].startswith("nvidia-cublas==13.")
    folder = found.library.parent.parent
    assert found == cuda.Cublas(
        folder / "lib/libcublas.so.13", folder / "lib/libcublasLt.so.13", folder / "include", from_wheel=True
    )
    assert not (folder / "lib/libnvblas.so.13").exists()


def test_a_toolkit_without_a_wheel_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ToolchainError, match="no cuBLAS wheel is known for CUDA 11, only for 12 and 13"):
        cuda.fetch_cublas(Home(tmp_path), _cuda((11, 8)), Silent())
