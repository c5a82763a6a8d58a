"""llama.cpp's programs: what each is called at which time, and whether it starts.

Upstream renamed them again and again (`main`, `llama-cli`, `llama-completion`), so a program has a role here, and the
names are looked up in the tree that is built.
"""

from __future__ import annotations

import os
import signal
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from convert.errors import ProgramError, Remedy, ToolchainError
from convert.llama_cpp.environment import environment
from convert.process import Answer, ask, how_it_ended
from convert.shown import excerpt

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

_PROBE_TIMEOUT_S: Final = 120.0  # the first start of a CUDA build may compile kernels
_OK: Final = frozenset({0})
_ILLEGAL: Final = frozenset({-signal.SIGILL, 128 + signal.SIGILL})
# The dynamic linker's words (glibc, elf/dl-lookup.c, dl-load.c, rtld.c; musl; dyld) -> what to do.
_CAUSES: Final = {
    "symbol lookup error": "a library of another build is in the way: see LD_PRELOAD, LD_LIBRARY_PATH, /etc/ld.so.conf",
    "version `": "a library that was found is older than the one it was built with: build again on this machine",
    "cannot open shared object file": "that library is not here any more: install it again, or build again without it",
    "Error loading shared library": "that library is not here any more: install it again, or build again without it",
    "Library not loaded": "that library is not here any more: install it again, or build again without it",
    "failed to map segment": "its file system is mounted `noexec`: build in another place",
}


@dataclass(frozen=True, slots=True)
class Program:
    """A role, the names a program for it has had (the newest first), and the aliases that everybody knows.

    probes: the arguments with which it must start and end well. exit_codes: what "well" is. optional: older trees
    lack it, or it is built on request only.
    """

    role: str
    names: tuple[str, ...]
    aliases: tuple[str, ...]
    optional: bool = True
    probes: tuple[str, ...] = ("--version", "--help")
    exit_codes: frozenset[int] = _OK


PROGRAMS: Final = (
    Program("completion", ("llama-completion", "llama-cli", "main"), ("main",), optional=False),
    # It knows no `--version`, and prints its usage with exit code 1: tools/quantize/quantize.cpp @ 0c1e570.
    Program(
        "quantize",
        ("llama-quantize", "quantize"),
        ("quantize",),
        optional=False,
        probes=("--help",),
        exit_codes=frozenset({0, 1}),
    ),
    Program("perplexity", ("llama-perplexity", "perplexity"), ("perplexity",)),
    Program("imatrix", ("llama-imatrix", "imatrix"), ("imatrix",)),
    Program("bench", ("llama-bench",), ("bench",)),
    Program("tokenize", ("llama-tokenize", "tokenize"), ("tokenize",)),
    Program("gguf-split", ("llama-gguf-split", "gguf-split"), ("gguf-split",)),
    Program("gguf-hash", ("llama-gguf-hash",), ("gguf-hash",)),
    Program("server", ("llama-server", "server"), ("server",)),
)


def choose_targets(available: Mapping[str, Path], *, server: bool) -> dict[str, str]:
    """Choose what to build: role to target, of the targets that the tree has.

    Raises ToolchainError where the tree lacks a program that nothing works without.
    """
    chosen: dict[str, str] = {}
    for program in PROGRAMS:
        if program.role == "server" and not server:
            continue
        name = next((name for name in program.names if name in available), None)
        if name is not None:
            chosen[program.role] = name
        elif not program.optional or program.role == "server":
            listed = ", ".join(f"`{name}`" for name in program.names)
            raise ToolchainError(f"the tree has no program for {program.role}: looked for {listed}")
    return chosen


def judge(path: Path, role: str) -> int:
    """Start a built program and return its exit code. Raises ToolchainError if it does not start and end well."""
    program = next(program for program in PROGRAMS if program.role == role)
    said: str = ""
    hint: str | None = None
    remedies: tuple[Remedy, ...] = ()
    for probe in program.probes:
        try:
            answer = ask([path, probe], timeout_s=_PROBE_TIMEOUT_S, env=environment(path))
        except ProgramError as error:
            said, remedies = error.message, (Remedy.BUILD_ELSEWHERE,)
            continue
        if answer.exit_code in program.exit_codes:
            return answer.exit_code
        said, hint = _last_of(answer), cause(answer.exit_code, answer.text)
    raise ToolchainError(f"`{path}` was built but does not run: {said}", hint=hint, remedies=remedies)


def _last_of(answer: Answer) -> str:
    heard = excerpt(answer.text)
    words = (heard.lines or ["it said nothing"])[0 if heard.error else -1]
    return f"{how_it_ended(answer.exit_code)}, {words}"


def cause(exit_code: int, said: str) -> str | None:
    """Say why a built program did not start, where its end tells that; None where it is another matter."""
    if exit_code in _ILLEGAL:
        return "this processor lacks what the build was made for; CMake's `-DGGML_NATIVE=OFF` builds for any"
    return next((hint for words, hint in _CAUSES.items() if words in said), None)


def put_aliases(programs: Mapping[str, Path], folders: Iterable[Path]) -> dict[str, str]:
    """Put links to the programs into these folders, by their own names and the aliases; returns alias to program.

    programs: role to path. A file that is not a link is never replaced: ToolchainError.
    """
    aliases = {
        alias: programs[program.role].name
        for program in PROGRAMS
        if program.role in programs
        for alias in program.aliases
    }
    links = {path.name: path for path in programs.values()}
    links |= {alias: links[name] for alias, name in aliases.items()}
    for folder in folders:
        for name, path in links.items():
            _link(folder / name, path)
    return aliases


def _link(link: Path, target: Path) -> None:
    if link == target:
        return
    if link.exists() and not link.is_symlink():
        raise ToolchainError(
            f"`{link}` is in the way of a link to `{target}`", hint="move it away", remedies=(Remedy.BUILD_ELSEWHERE,)
        )
    leads_to = os.path.relpath(target, link.parent)
    if link.is_symlink() and str(link.readlink()) == leads_to:
        return
    fresh = link.with_name(f".link-{link.name}-{os.getpid()}-{threading.get_ident()}")
    fresh.symlink_to(leads_to)
    fresh.replace(link)
