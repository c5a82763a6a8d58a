"""Any type that llama.cpp knows, by its own llama-quantize: K-quants, IQ types with an importance matrix, and the rest.

The program writes to a hidden sibling; the final name appears when it has ended well, and holds a whole file.
"""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

from convert.errors import CheckpointError, OutputError, Remedy, UsageError
from convert.file_system import check_free
from convert.llama_cpp.environment import environment
from convert.llama_cpp.reporter import Reporter, Silent
from convert.process import ask, run
from convert.stream import existing_parent

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

# `  15  or  Q4_K_M  :  4.58G, +0.1754 ppl @ Llama-3-8B`: tools/quantize/quantize.cpp, usage @ 0c1e570.
_LISTED_TYPE: Final = re.compile(r"^\s*\d+\s+or\s+([A-Z0-9_]+)\s*:", re.MULTILINE)
# `[   1/  47]   token_embd.weight - …`: src/llama-quant.cpp, llama_model_quantize_impl @ 0c1e570.
# `llama_model_quantize_impl: quant size  =     1.11 MiB (5.07 BPW)`: the same.
_SIZE: Final = re.compile(r"quant size\s*=\s*([\d.]+) MiB")
_STEP: Final = re.compile(r"^\[\s*(\d+)/\s*(\d+)\]")


def known_types(program: Path) -> tuple[str, ...]:
    """List the types that this llama-quantize offers."""
    return tuple(_LISTED_TYPE.findall(ask([program, "--help"]).text))


def quantize_with_llama_cpp(
    program: Path,
    source: Path,
    outputs: Mapping[str, Path],
    *,
    imatrix: Path | None = None,
    jobs: int | None = None,
    flags: Sequence[str] = (),
    force: bool = False,
    reporter: Reporter | None = None,
) -> tuple[Path, ...]:
    """Quantize a float GGUF file with llama-quantize, one type after the other.

    outputs: for each type, in llama.cpp's spelling and any case, the path of its file. imatrix: weights' importance,
    which the smallest IQ types need. jobs: threads. flags: more of the program's options, before the file names.
    force: replace files that exist. Returns the paths written.
    Raises UsageError for an unknown type, CheckpointError or OutputError for the files, and ProgramError (a
    ToolchainError), naming the log, where the program fails; then the type's file is not there.
    """
    wanted = check_quantize(program, source, outputs, imatrix=imatrix, force=force)
    _check_room(program, source, wanted)
    for kind, path in wanted.items():
        options = [*(("--imatrix", str(imatrix)) if imatrix else ()), *flags]
        threads = [] if jobs is None else [str(jobs)]
        _write(path, [str(program), *options, str(source)], [kind, *threads], reporter or Silent())
    return tuple(wanted.values())


def check_quantize(
    program: Path, source: Path, outputs: Mapping[str, Path], *, imatrix: Path | None = None, force: bool = False
) -> dict[str, Path]:
    """Check what can be known before the work, as `quantize_with_llama_cpp` says; give the types in capitals."""
    wanted = {kind.upper(): path for kind, path in outputs.items()}
    _check_types(program, wanted)
    _check_files(source, imatrix, wanted, force=force)
    return wanted


def _check_room(program: Path, source: Path, wanted: Mapping[str, Path]) -> None:
    """Raise OutputError where a disk lacks room, as far as the program can tell the size without writing."""
    said = {kind: ask([program, "--dry-run", source, kind], env=environment(program)).text for kind in wanted}
    sizes = {kind: found[1] for kind, text in said.items() if (found := _SIZE.search(text))}
    needed = sum(float(size) for size in sizes.values()) * (1 << 20)
    check_free(existing_parent(next(iter(wanted.values()))), round(needed))


def _check_types(program: Path, wanted: Mapping[str, Path]) -> None:
    known = known_types(program)
    for kind in wanted:
        if kind not in known:
            raise UsageError(f"`{program.name}` knows no type `{kind}`", hint=f"known are {', '.join(known)}")


def _check_files(source: Path, imatrix: Path | None, wanted: Mapping[str, Path], *, force: bool) -> None:
    for path in (source, *((imatrix,) if imatrix else ())):
        if not path.is_file():
            raise CheckpointError(f"`{path}` is not a file")
    if len(set(wanted.values())) < len(wanted):
        raise UsageError("two types are to be written to one file")
    for path in wanted.values():
        if path.exists() and path.samefile(source):
            raise UsageError(f"the output `{path}` is the input itself", remedies=(Remedy.OTHER_PLACE,))
        if path.exists() and not force:
            raise OutputError(f"`{path}` is already there", remedies=(Remedy.FORCE, Remedy.OTHER_PLACE))


def _write(path: Path, before: Sequence[str], after: Sequence[str], reporter: Reporter) -> None:
    """Run `before PARTIAL after`; the partial file gets its name if that ends well, and the log stays if not."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    log = Path(tempfile.gettempdir()) / f"convert-{os.getpid()}-{path.name}.log"
    what = f"quantizing to {after[0]}"

    def listen(line: str) -> None:
        if (step := _STEP.match(line)) is not None:
            reporter.advance(what, int(step[1]), int(step[2]))

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        log.unlink(missing_ok=True)
        reporter.say(what)
        run([*before, str(partial), *after], step=what, log=log, on_line=listen, env=environment(Path(before[0])))
        _publish(partial, path)
        log.unlink()
    except OSError as error:
        raise OutputError(f"`{path}` cannot be written: {error.strerror}") from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


def _publish(partial: Path, path: Path) -> None:
    fd = os.open(partial, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
    partial.replace(path)
