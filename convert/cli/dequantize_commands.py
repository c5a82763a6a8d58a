"""The command that writes plain Hugging Face directories, and uploads them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from convert.cli.options import MERGE, PATH, operand, program_name, stated_of, stating, writing_options

if TYPE_CHECKING:
    from pathlib import Path

    from convert.dequantization import DequantizePlan
    from convert.hub import HubRepository


@click.command("dequantize", short_help="A packed checkpoint, or a GGUF file, to a plain Hugging Face directory.")
@click.argument("model", type=PATH)
@click.argument("outdir", type=PATH)
@click.option(
    "--dtype",
    metavar="f16|bf16|f32",
    help="Of every floating tensor; by default the checkpoint's own, of a GGUF file what is exact.",
)
@click.option(
    "--through",
    metavar="TYPE",
    help="Take a 16-bit checkpoint down to nf4, nf4-dq, fp4, fp4-dq or int8 and up again, as bitsandbytes does.",
)
@click.option("--max-shard-size", default="5GB", show_default=True, metavar="SIZE", help="Of a file of weights.")
@MERGE
@stating
@click.option("--push-to-hub", metavar="REPO", help="Then upload OUTDIR to this model repository, made if missing.")
@click.option("--private", is_flag=True, help="With --push-to-hub: the repository must be private.")
@writing_options
def dequantize(
    model: Path,
    outdir: Path,
    merge: tuple[str, ...],
    push_to_hub: str | None,
    private: bool,
    force: bool,
    jobs: int | None,
    allow_nonfinite: bool,
    dry_run: bool,
    as_json: bool,
    **wanted: Any,
) -> None:
    """Write the checkpoint or GGUF file MODEL to OUTDIR as `from_pretrained` loads it: unpacked, decoded.

    A checkpoint may be of any architecture; a GGUF file of one that `convert inspect --architectures` calls native.
    Each of its tensors keeps its exact values unless --dtype says otherwise; what a directory cannot say again is
    listed as lost.

    MODEL may be elsewhere, as hf://USER/MODEL[@REVISION].

    Tensors are decoded slice by slice; a killed run is continued by running the same command again.

    --through takes the matrices that transformers 5 would quantize: 2-D `.weight`s of linear layers. It leaves
    embeddings, norms, biases, the output head (lm_head, embed_out, output_layer, score, classifier) and, in a mixture
    of experts, the experts and their router; --dry-run lists what it takes. The values are bit for bit what
    bitsandbytes 0.50 computes on a CPU, loaded in --dtype. --merge comes after it, so that an adapter meets the weights
    it was trained on.

    --push-to-hub takes the token from HF_TOKEN or `hf auth login`; an interrupted upload is continued.

    \b
      convert dequantize ./llama-nf4 ./llama-f16
      convert dequantize llama-Q4_K_M.gguf ./llama-back
      convert dequantize ./llama ./llama-nf4-upscaled --through nf4 --dtype f16
      convert dequantize ./llama ./merged --through nf4-dq --merge ./my-qlora --push-to-hub me/merged --private
    """  # noqa: D301 - Click's mark for "do not wrap"
    from convert.codec import kernel_level  # noqa: PLC0415 - NumPy and gguf, only when needed
    from convert.dequantization import (  # noqa: PLC0415
        DequantizeRequest,
        carry_out_dequantize,
        check_outputs,
        plan_dequantize,
    )
    from convert.model import model_request  # noqa: PLC0415
    from convert.remote import received_nbytes  # noqa: PLC0415
    from convert.stream import Writing  # noqa: PLC0415
    from convert.terminal import look  # noqa: PLC0415
    from convert.terminal.plan import show_plan, show_whole_plan  # noqa: PLC0415
    from convert.terminal.report import show_report  # noqa: PLC0415

    _check_usage(push_to_hub, private=private, dry_run=dry_run, as_json=as_json)
    plan = plan_dequantize(
        model_request(model, merge=merge, stated=stated_of(wanted)), DequantizeRequest(outdir, **wanted)
    )
    if dry_run:
        click.echo(plan.as_json()) if as_json else show_whole_plan(plan.summary)
        return
    show_plan(plan.summary, look.stderr())
    check_outputs(plan, force=force)  # before anyone is asked
    repository = _prepare(plan, push_to_hub, private=private) if push_to_hub else None
    with look.warnings_shown():
        kernel_level()
    with look.warnings_shown(), look.byte_progress(plan.nbytes, received_nbytes) as progress:
        report = carry_out_dequantize(plan, Writing(force, jobs, allow_nonfinite), progress=progress)
    show_report(report, then=[*program_name().split(), "all", operand(outdir), "quantized/"])
    if repository is not None:
        _upload(plan, repository)


def _check_usage(push_to_hub: str | None, *, private: bool, dry_run: bool, as_json: bool) -> None:
    context = click.get_current_context()
    if as_json and not dry_run:
        raise click.UsageError("--json goes with --dry-run", ctx=context)
    if private and push_to_hub is None:
        raise click.UsageError("--private goes with --push-to-hub", ctx=context)
    if push_to_hub is not None:
        from convert.hub import check_repository_name  # noqa: PLC0415 - the Hub's client, only when needed

        check_repository_name(push_to_hub)


def _prepare(plan: DequantizePlan, name: str, *, private: bool) -> HubRepository:
    from convert.hub import prepare_repository  # noqa: PLC0415

    cards = (output.header.decode() for output in plan.side_files.outputs if output.path.name == "README.md")
    return prepare_repository(name, private=private, files=plan.file_names, card=next(cards, None))


def _upload(plan: DequantizePlan, repository: HubRepository) -> None:
    from convert.hub import upload_directory  # noqa: PLC0415
    from convert.terminal import look  # noqa: PLC0415

    err = look.stderr()
    look.say(err, f"uploading to {repository.url}")
    message = f"Weights in {plan.dtype_name}"
    with look.warnings_shown():
        upload_directory(repository, plan.outdir, plan.file_names, message=message)
    look.say(err, f"uploaded: {repository.url}")
