"""llama-gguf-split, and what it makes."""

from __future__ import annotations

import subprocess
from hashlib import sha256
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pathlib import Path

    from reference import Reference

BY_TENSORS: Final = ("--split-max-tensors", "8")
BY_SIZE: Final = ("--split-max-size", "1M")


def gguf_split(reference: Reference, *words: object) -> subprocess.CompletedProcess[str]:
    """Run llama-gguf-split; how it ended is the caller's to judge."""
    program = reference.quantize.with_name("llama-gguf-split")
    return subprocess.run([str(program), *map(str, words)], capture_output=True, text=True, check=False)


def split_by_reference(reference: Reference, whole: Path, prefix: Path, *flags: object) -> list[Path]:
    """Cut a file into parts, in a directory that is made where it is missing: their paths, in order."""
    prefix.parent.mkdir(parents=True, exist_ok=True)
    ended = gguf_split(reference, "--split", *flags, whole, prefix)
    assert ended.returncode == 0, ended.stderr
    return sorted(prefix.parent.glob(f"{prefix.name}-*-of-*.gguf"))


def digests(folder: Path) -> dict[str, str]:
    """Give the sha256 of every file in a directory."""
    return {path.name: sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}
