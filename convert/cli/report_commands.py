"""`convert report`: what each type costs, measured."""

from __future__ import annotations

import shlex
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from convert.cli.llama_cpp_commands import telling
from convert.cli.options import PATH, dir_option

if TYPE_CHECKING:
    from collections.abc import Iterator

    from convert.report import Report
    from convert.report.running import Programs


@click.command("report", short_help="What each type costs: size, error, perplexity, speed, memory.")
@click.argument("models", type=PATH, nargs=-1, required=True, metavar="MODEL|GGUF…")
@click.option("--against", type=PATH, metavar="MODEL", help="The checkpoint, or float GGUF file, that is the measure.")
@click.option("--text", type=PATH, metavar="FILE", help="Measure answers on this text: perplexity, KL divergence.")
@click.option("--chunks", type=click.IntRange(min=2), metavar="N", help="Windows of the text, of 512 tokens, at most.")
@click.option("--types", default="f16,q8_0,q5_k_m,q4_k_m", show_default=True, help="Of a MODEL: the types to measure.")
@click.option("--keep", type=PATH, metavar="DIR", help="Keep the files that are made of a MODEL, or take those there.")
@click.option("--precisions", default="", metavar="LIST", help="By transformers: f32, bf16, int8, nf4, nf4-dq, …")
@click.option("--prompt", metavar="TEXT", help="What is answered for the seconds; by default LitGPT's.")
@click.option("--runs", type=click.IntRange(min=1), default=3, show_default=True, help="Of llama-bench.")
@click.option(
    "--logits-budget", default="2GB", metavar="SIZE", show_default=True, help="Disk for the reference's probabilities."
)
@click.option("-j", "--jobs", type=click.IntRange(min=1), metavar="N", help="Threads; by default llama.cpp's choice.")
@click.option("-o", "--out", type=PATH, metavar="FILE.html", help="Write one page, with figures; needs no network.")
@click.option("--png", type=PATH, metavar="DIR", help="Write the page's figures as PNG and SVG.")
@click.option("--markdown", type=PATH, metavar="FILE", help="Write the table as Markdown, for a card.")
@click.option("--json", "as_json", is_flag=True, help="Everything, as JSON on stdout.")
@dir_option
def report(
    models: tuple[Path, ...], out: Path | None, png: Path | None, markdown: Path | None, as_json: bool, **options: Any
) -> None:
    """Measure what each type of a model costs, and print one table.

    Of a checkpoint, its types are made first. What was measured once of the same bytes is not measured again.

    \b
      convert report quantized/*.gguf --text wiki.test.raw -o report.html
      convert report ./my-finetuned-llama --types f16,q8_0,q4_k_m --text wiki.test.raw
    """  # noqa: D301 - Click's mark for lines to keep
    import json  # noqa: PLC0415

    from convert.errors import OutputError  # noqa: PLC0415
    from convert.report.charts import altair, figures, write_pictures  # noqa: PLC0415
    from convert.report.markdown import as_markdown  # noqa: PLC0415
    from convert.report.page import as_page  # noqa: PLC0415
    from convert.terminal.costs import show_costs  # noqa: PLC0415

    if out is not None or png is not None:
        altair()  # said before the work where it is missing
    for path in filter(None, (out, markdown)):
        if path.is_dir():
            raise OutputError(f"`{path}` is a directory, wanted a file")
    found = _measured(models, **options)
    if markdown is not None:
        _write(markdown, as_markdown(found))
    if out is not None:
        _write(out, as_page(found))
    if png is not None:
        write_pictures(figures(found), png)
    if as_json:
        click.echo(json.dumps(found.as_json(), indent=2, ensure_ascii=False))
    else:
        show_costs(found)


def _write(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    from convert.errors import OutputError  # noqa: PLC0415
    from convert.file_system import write_text  # noqa: PLC0415

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"`{path}` cannot be written: {error.strerror}") from error
    write_text(path, text)


def _measured(models: tuple[Path, ...], **options: Any) -> Report:
    from convert.model import model_request  # noqa: PLC0415
    from convert.plan import parse_size  # noqa: PLC0415
    from convert.report import Measuring, ReportRequest, measure  # noqa: PLC0415
    from convert.report.measure import PROMPT  # noqa: PLC0415

    checkpoint = models[0] if len(models) == 1 and models[0].is_dir() else None
    against: Path | None = options["against"] or checkpoint
    with _files(models, checkpoint, options) as files, telling() as reporter:
        request = ReportRequest(
            files,
            against=None if against is None else model_request(against),
            text=options["text"],
            n_windows=options["chunks"],
            budget=parse_size(options["logits_budget"]),
            prompt=options["prompt"] or PROMPT,
            precisions=tuple(filter(None, options["precisions"].split(","))),
            jobs=options["jobs"],
            n_runs=options["runs"],
            command=shlex.join(["convert", *sys.argv[1:]]),
        )
        return measure(request, Measuring(_programs(options["directory"]), reporter=reporter))


@contextmanager
def _files(models: tuple[Path, ...], checkpoint: Path | None, options: dict[str, Any]) -> Iterator[tuple[Path, ...]]:
    """Give the GGUF files to measure: those named, or a checkpoint's types, made in one read."""
    if checkpoint is None:
        yield models
        return
    from convert.conversion import convert_all  # noqa: PLC0415
    from convert.plan import OutputRequest  # noqa: PLC0415
    from convert.stream import Writing  # noqa: PLC0415

    with tempfile.TemporaryDirectory(prefix="convert-report-") as folder:
        outdir = options["keep"] or Path(folder)
        made = convert_all(checkpoint, OutputRequest(outdir, options["types"]), Writing(jobs=options["jobs"]))
        yield tuple(output.path for output in made.outputs)


def _programs(directory: Path | None) -> Programs | None:
    from convert.llama_cpp import find_program  # noqa: PLC0415
    from convert.report.running import Programs  # noqa: PLC0415

    found = [find_program(role, directory) for role in ("perplexity", "bench", "completion")]
    if any(program is None for program in found):
        click.echo("no llama.cpp build was found: size and weights only (`convert build-llamacpp` makes one)", err=True)
        return None
    return Programs(*(program for program in found if program is not None))
