"""`convert verify`: are these files sound, and how far are they from the checkpoint."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from convert.cli.options import PATH, dir_option, stated_of, stating

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from convert.model import ModelRequest
    from convert.verify import Measuring

_TIMEOUT_S = 24 * 3600.0


@click.command("verify", short_help="Are GGUF files sound, and how far from the checkpoint.")
@click.argument("files", type=PATH, nargs=-1, required=True, metavar="GGUF…")
@click.option("--against", type=PATH, metavar="MODEL", help="The checkpoint they were made of, or a float GGUF file.")
@click.option("--text", type=PATH, metavar="FILE", help="Measure perplexity and divergence on this text.")
@click.option(
    "--max-divergence",
    "limits",
    multiple=True,
    metavar="TYPE=NATS",
    help="With --text: the most that a file of this type may diverge from the base, such as q4_k_m=0.05.",
)
@click.option("--pre-tokenizer", metavar="NAME", help="With --against: as given for the conversion.")
@click.option("--merge", multiple=True, metavar="ADAPTER[:WEIGHT]", help="With --against: as given for the conversion.")
@stating
@click.option(
    "--llama-cpp/--no-llama-cpp",
    "with_llama_cpp",
    default=None,
    help="Load the files with llama.cpp; by default where a build is found.",
)
@dir_option
@click.option("--tensors", "with_tensors", is_flag=True, help="With --against: show the tensors that are furthest off.")
@click.option("--json", "as_json", is_flag=True, help="Everything, as JSON.")
def verify(
    files: tuple[Path, ...],
    against: Path | None,
    text: Path | None,
    limits: tuple[str, ...],
    pre_tokenizer: str | None,
    merge: tuple[str, ...],
    with_llama_cpp: bool | None,
    directory: Path | None,
    with_tensors: bool,
    as_json: bool,
    **stated: Any,
) -> None:
    """Open GGUF files again and check them; exit code 9 when something is wrong.

    Always: header, offsets, padding and length; no NaN in values and scales; the metadata that loading needs; the chat
    template. With --against, every tensor is decoded and compared with the checkpoint's. With a llama.cpp build, it
    loads them, and with --text it measures them side by side.

    \b
      convert verify quantized/*.gguf --against ./my-finetuned-llama --text stories.txt
    """  # noqa: D301 - Click's mark for lines to keep
    from convert.model import model_request  # noqa: PLC0415 - NumPy and gguf, only when needed

    told = stated_of(stated)
    request = None if against is None else model_request(against, merge=merge, pre_tokenizer=pre_tokenizer, stated=told)
    run_verification(
        files,
        against=request,
        text=text,
        limits=limits,
        with_llama_cpp=with_llama_cpp,
        directory=directory,
        with_tensors=with_tensors,
        as_json=as_json,
    )


def run_verification(
    files: Sequence[Path],
    *,
    against: ModelRequest | None = None,
    text: Path | None = None,
    limits: Sequence[str] = (),
    with_llama_cpp: bool | None = None,
    directory: Path | None = None,
    with_tensors: bool = False,
    as_json: bool = False,
) -> None:
    """Verify and print; raises VerificationError when something is wrong. Also for `convert all --verify`.

    with_llama_cpp: None means where a build is found.
    """
    import json  # noqa: PLC0415

    from convert.llama_cpp.front_end import open_gguf_model  # noqa: PLC0415
    from convert.terminal.verification import show_verification  # noqa: PLC0415
    from convert.verify import held_to, parse_limit, verify_files  # noqa: PLC0415

    wanted_limits = [parse_limit(limit) for limit in limits]

    measuring = _measuring(with_llama_cpp, directory, text=text)
    if measuring is not None and against is not None and against.path.is_dir():
        measuring = replace(measuring, checkpoint=against)
    is_checkpoint = against is not None and against.path.suffix != ".gguf"
    wanted = open_gguf_model(against) if is_checkpoint and against is not None else None
    verification = verify_files(files, against=against, measuring=measuring, wanted=wanted)
    verification = held_to(verification, wanted_limits)
    if as_json:
        click.echo(json.dumps(verification.as_json(), indent=2, ensure_ascii=False))
    else:
        show_verification(verification, with_tensors=with_tensors)
        if measuring is None and with_llama_cpp is None:
            click.echo(
                "no llama.cpp build was found: nothing was loaded (`convert build-llamacpp` makes one)", err=True
            )
    verification.check()


def _measuring(with_llama_cpp: bool | None, directory: Path | None, *, text: Path | None) -> Measuring | None:
    from convert.errors import ToolchainError, UsageError  # noqa: PLC0415
    from convert.llama_cpp import find_program  # noqa: PLC0415
    from convert.llama_cpp.environment import environment  # noqa: PLC0415
    from convert.process import ask  # noqa: PLC0415
    from convert.verify import LlamaCpp, Measuring  # noqa: PLC0415

    if text is not None and not text.is_file():
        raise UsageError(f"`{text}` is not a file")
    if with_llama_cpp is False:
        if text is not None:
            raise UsageError("--text needs llama.cpp, and --no-llama-cpp leaves it out")
        return None
    completion, perplexity = (find_program(role, directory) for role in ("completion", "perplexity"))
    if completion is not None and (perplexity is not None or text is None):
        started = partial(ask, timeout_s=_TIMEOUT_S, env=environment(completion))
        programs = LlamaCpp(completion, perplexity, started)
        return Measuring(programs, text=text)
    if with_llama_cpp or text is not None:
        raise ToolchainError("no llama.cpp build was found that can run the files", hint="run `convert build-llamacpp`")
    return None
