"""The commands and their options."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from convert.cli import quantize_options
from convert.cli.asked_options import lock_option
from convert.cli.cluster_commands import finish, planning, work
from convert.cli.dequantize_commands import dequantize
from convert.cli.hints import HintingGroup
from convert.cli.imatrix_commands import imatrix, importance_for
from convert.cli.llama_cpp_commands import build_llamacpp, doctor, quantize_by_llama_cpp, run_gguf, with_source
from convert.cli.options import (
    PATH,
    checkpoint_options,
    dir_option,
    ray_of,
    ray_option,
    request_of,
    split_of,
    splitting,
    stated_of,
    stating,
    stating_of_old,
    writing_options,
)
from convert.cli.publish_commands import (
    card,
    lint,
    make_and_push,
    modelfile,
    publish,
    publishing_options,
    push_of,
)
from convert.cli.recipe_commands import recipe, reproduce
from convert.cli.report_commands import report
from convert.cli.split_commands import merge, split
from convert.cli.verify_commands import run_verification, verify
from convert.cli.writing import show_and_write

_OURS_ALONE = (
    "as_json", "allow_nonfinite", "context", "eps", "gqa", "imatrix_name", "keep_split", "lock", "lossless",
    "split_max_size", "split_max_tensors",
)  # fmt: skip


@click.group(cls=HintingGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="gguf-convert", prog_name="convert")
def cli() -> None:
    """Convert PyTorch and Hugging Face checkpoints to GGUF files that run anywhere.

    The files are byte for byte what llama.cpp's own converter and llama-quantize make.
    """


for _command in (
    dequantize, build_llamacpp, imatrix, run_gguf, verify, report, split, merge, card, modelfile, publish, lint, doctor,
    recipe, reproduce, work, finish,
):  # fmt: skip
    cli.add_command(_command)


@cli.command("all", short_help="A checkpoint to f16, q4_0, q4_1, q5_0, q5_1 and q8_0, in one read.")
@click.argument("model", type=PATH)
@click.argument("outdir", type=PATH)
@click.option("--types", default="f16,q4_0,q4_1,q5_0,q5_1,q8_0", show_default=True, help=quantize_options.TYPES_HELP)
@click.option("--discard-f16", is_flag=True, help="Leave the f16 file out; the others do not need it.")
@click.option("--name", metavar="NAME", help="Base name of the files; by default the directory's.")
@click.option(
    "--style", default="plain", show_default=True, help="Of the files' names: plain, bartowski or mradermacher."
)
@click.option("--mmproj", metavar="TYPE", help="Also mmproj-NAME-TYPE.gguf, of what is not text: f16, bf16 or q8_0.")
@click.option("--mtp", metavar="TYPE", help="Also mtp-NAME-TYPE.gguf, of the layers for further tokens.")
@click.option("--verify", "verifies", is_flag=True, help="Afterwards compare every file with MODEL, as `verify` does.")
@click.option("--text", type=PATH, metavar="FILE", help="With --imatrix auto: the text that the matrix is made from.")
@click.option("--chunks", type=click.IntRange(min=1), metavar="N", help="With --text: windows of it, at most.")
@publishing_options
@dir_option
@checkpoint_options
@quantize_options.quantizing
@splitting
@ray_option
@lock_option
@writing_options
def all_types(
    model: Path,
    outdir: Path,
    types: str,
    discard_f16: bool,
    name: str | None,
    style: str,
    mmproj: str | None,
    mtp: str | None,
    verifies: bool,
    text: Path | None,
    chunks: int | None,
    directory: Path | None,
    **run: Any,
) -> None:
    """Convert the checkpoint MODEL to OUTDIR/NAME-TYPE.gguf, all types in one read.

    MODEL is a directory with config.json, weights (safetensors or PyTorch files) and tokenizer; or an adapter's
    directory, when its base is on this machine. It may be elsewhere: hf://USER/MODEL[@REVISION] (or USER/MODEL where
    no such path is), s3://…, gs://…; weights are read by ranges then, and never lie on this disk. An architecture that
    has no definition of ours is converted by llama.cpp's own, which `convert build-llamacpp --source-only` fetches.
    Files in parts are OUTDIR/NAME-TYPE/NAME-TYPE-00001-of-00003.gguf and so on.

    \b
      convert all ./my-finetuned-llama quantized/
      convert all ./my-finetuned-llama quantized/ --types q4_0,q8_0
      convert all hf://me/my-finetuned-llama@v1.0 quantized/
      convert all ./llama quantized/ --merge ./my-adapter
      convert all ./my-vision-model quantized/ --mmproj f16
      convert all ./llama quantized/ --types standard,iq2_m --imatrix auto --text calibration.txt
      convert all ./llama quantized/ --types standard --push-to-hub me/llama-GGUF --discard-uploaded
    """  # noqa: D301 - Click's mark for "do not wrap"
    from convert.conversion import plan_all  # noqa: PLC0415 - NumPy and gguf, only when needed
    from convert.plan import OutputRequest, directory_name  # noqa: PLC0415

    push = push_of(run)
    if push.discard and verifies:
        raise click.UsageError(
            "--verify needs the files that --discard-uploaded deletes", ctx=click.get_current_context()
        )
    request = request_of(model, run, directory)
    wanted = OutputRequest(outdir, types, name, discard_f16, split=split_of(run), style=style)
    asked = quantize_options.words(run)
    if asked["imatrix"] == "auto":
        asked["imatrix"] = importance_for(request, wanted, text, n_windows=chunks, directory=directory, **run)
    elif text is not None or chunks is not None:
        raise click.UsageError("--text and --chunks go with --imatrix auto", ctx=click.get_current_context())
    wanted = replace(wanted, options=quantize_options.read(asked), mmproj=mmproj, mtp=mtp)
    plan = with_source(lambda: plan_all(request, wanted), directory)
    settled = {"imatrix": asked["imatrix"], "name": name or directory_name(request.directory)}

    def check() -> None:
        if verifies and not run["dry_run"]:
            others = (mmproj is not None) + (mtp is not None)
            paths = [files[0].path for files in plan.models[: len(plan.models) - others]]
            run_verification(paths, against=request, directory=directory)

    if push.repository is not None:
        make_and_push(plan, push, request.directory, outdir, settled=settled, check=check, **run)
        return
    show_and_write(plan, outdir, settled, **run)
    check()


cli.add_command(planning(all_types))


@cli.command("gguf", short_help="A checkpoint to one GGUF file.")
@click.argument("model", type=PATH)
@click.argument("out", type=click.Path(path_type=str), metavar="OUT.gguf")
@click.option("--type", "kind", default="f16", show_default=True, help="One type, as for `all --types`.")
@dir_option
@checkpoint_options
@quantize_options.quantizing
@splitting
@ray_option
@lock_option
@writing_options
def one_type(model: Path, out: str, kind: str, directory: Path | None, **run: Any) -> None:
    """Convert the checkpoint MODEL to the file OUT.gguf; in parts, to OUT/OUT-00001-of-00003.gguf and so on."""
    from convert.conversion import plan_one  # noqa: PLC0415

    request, split = request_of(model, run, directory), split_of(run)
    options = quantize_options.taken_from(run)
    plan = with_source(lambda: plan_one(request, out, type=kind, options=options, split=split), directory)
    show_and_write(plan, Path(out).parent, **run)


@cli.command("quantize", short_help="An f32, f16 or bf16 GGUF file to other types.")
@click.argument("source", type=PATH, metavar="IN.gguf")
@click.argument("outdir", type=PATH)
@click.option("--types", default="q4_0,q4_1,q5_0,q5_1,q8_0", show_default=True, help=quantize_options.TYPES_HELP)
@click.option("--name", metavar="NAME", help="Base name of the files; by default the input's, without its type.")
@click.option(
    "--with",
    "encoder",
    type=click.Choice(["convert", "llama.cpp"]),
    default="convert",
    show_default=True,
    help="llama.cpp: by the built llama-quantize, a type after the other.",
)
@dir_option
@quantize_options.requantizing
@stating_of_old
@splitting
@ray_option
@lock_option
@writing_options
def quantize(
    source: Path,
    outdir: Path,
    types: str,
    name: str | None,
    encoder: str,
    directory: Path | None,
    **run: Any,
) -> None:
    """Quantize IN.gguf, made by anyone, to OUTDIR/NAME-TYPE.gguf, all types in one read.

    IN.gguf may be elsewhere: hf://USER/MODEL-GGUF/FILE.gguf, s3://…, https://….
    Of a model in parts, IN.gguf is the first; files in parts are OUTDIR/NAME-TYPE/NAME-TYPE-00001-of-00003.gguf and so
    on. IN.gguf may be a llamafile, or older than GGUF, a ggmlv3 `.bin`, whose blocks --types copy keeps as they are.
    """
    from convert.conversion import plan_quantize  # noqa: PLC0415
    from convert.plan import OutputRequest, gguf_name  # noqa: PLC0415

    context, stated = click.get_current_context(), stated_of(run)
    given = (option for option in context.command.params if context.params.get(str(option.name)))
    ours = [option.opts[0] for option in given if option.name in _OURS_ALONE]
    ours += ["--ray"] if ray_of(context) is not None else []
    wanted = OutputRequest(outdir, types, name, split=split_of(run))
    asked = quantize_options.words(run)
    if encoder == "llama.cpp":
        if ours:
            raise click.UsageError(f"{ours[0]} does not go with --with llama.cpp", ctx=context)
        kinds = [kind.strip().upper() for kind in types.split(",")]
        outputs = {kind: wanted.path(gguf_name(source), kind) for kind in kinds}
        options = {key: run[key] for key in ("jobs", "force", "dry_run")}
        imatrix = Path(matrix) if (matrix := asked.pop("imatrix")) else None
        flags = quantize_options.as_flags(asked)
        quantize_by_llama_cpp(source, outputs, imatrix=imatrix, flags=flags, directory=directory, **options)
        return
    plan = plan_quantize(source, replace(wanted, options=quantize_options.read(asked)), stated)
    show_and_write(plan, outdir, {"name": name or gguf_name(source)}, **run)


@cli.command("inspect", short_help="What a checkpoint directory or a GGUF file holds.")
@click.argument("path", type=PATH, required=False)
@click.option("--json", "as_json", is_flag=True, help="Everything, as JSON.")
@click.option("--tensors/--no-tensors", default=True, show_default=True, help="List every tensor.")
@click.option("--architectures", is_flag=True, help="List instead every class of transformers that can be converted.")
@stating
def inspect_path(path: Path | None, as_json: bool, tensors: bool, architectures: bool, **stated: Any) -> None:
    """Show architecture, parameters, memory in every precision, metadata and tensors; no weight is read.

    PATH may be elsewhere, as hf://USER/MODEL: a few MB are read, whatever the model has.

    The memory table has the exact bytes of each group of tensors in f32, f16, bf16, bitsandbytes' int8, nf4 and fp4
    (-dq: with double quantization), and in each GGUF type.
    """
    import json  # noqa: PLC0415

    from convert.inspection import inspect  # noqa: PLC0415
    from convert.terminal.inspection import show_inspection  # noqa: PLC0415

    if architectures:
        _list_architectures(as_json=as_json)
        return
    if path is None:
        raise click.UsageError("what to look into is missing: PATH", ctx=click.get_current_context())
    inspection = inspect(path, stated_of(stated))
    if as_json:
        click.echo(json.dumps(inspection.as_json(), indent=2, ensure_ascii=False))
    else:
        show_inspection(inspection, with_tensors=tensors)


def _list_architectures(*, as_json: bool) -> None:
    import json  # noqa: PLC0415
    from dataclasses import asdict  # noqa: PLC0415

    from convert.llama_cpp.front_end import known_architectures  # noqa: PLC0415
    from convert.terminal.inspection import show_architectures  # noqa: PLC0415

    known = known_architectures()
    if as_json:
        click.echo(json.dumps([asdict(each) for each in known], indent=2))
    else:
        show_architectures(known)
