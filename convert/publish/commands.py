"""What to type to run a file, under each program: from the repository where it is known, else from the disk."""

from __future__ import annotations

from shlex import quote
from typing import TYPE_CHECKING

from convert.publish.choosers import llama_cpp_model
from convert.publish.files import PART, FileRole

if TYPE_CHECKING:
    from collections.abc import Iterator

    from convert.publish.files import DescribedDirectory, DescribedFile


def how_to_run(directory: DescribedDirectory, repository: str | None) -> Iterator[str]:
    """Write the section on running. repository: `USER/NAME-GGUF`."""
    model = usual(directory)
    yield from ("## How to run", "")
    yield from _from_hub(directory, model, repository) if repository else _from_disk(directory, model)


def usual(directory: DescribedDirectory) -> DescribedFile:
    """Give the model that most people are to take: what llama.cpp takes by itself."""
    names = [model.names[0] for model in directory.models]
    chosen = llama_cpp_model(sorted(names))
    return next((model for model in directory.models if model.names[0] == chosen), directory.models[-1])


def _from_hub(directory: DescribedDirectory, model: DescribedFile, repository: str) -> Iterator[str]:
    tag = f"{repository}:{model.label}"
    names = sorted(name for each in directory.models for name in each.names)
    finds = llama_cpp_model(names, model.label) == model.names[0]
    # Where not, another file has the tag in its name too.
    named = tag if finds else f"{repository} --hf-file {quote(model.names[0])}"
    yield from ("llama.cpp:", "", "```sh", f"llama-cli -hf {named}", f"llama-server -hf {named}", "```", "")
    if len(model.names) == 1:
        yield from ("Ollama:", "", "```sh", f"ollama run hf.co/{tag}", "```", "")
    else:
        yield from (
            "Ollama takes no split files from the Hub; for one, download it and `ollama create` with a Modelfile.",
            "",
        )
    yield f"LM Studio: search for `{repository}` and choose `{model.label}`, or"
    yield from ("", "```sh", f"lms get {repository}@{model.label.lower()}", "```", "", "One file alone:", "", "```sh")
    listed = " ".join(map(quote, model.names)) if len(model.names) == 1 else f"--include {quote(_parts(model))}"
    yield from (f"hf download {repository} {listed} --local-dir .", "```")
    if directory.of(FileRole.MMPROJ):
        yield from ("", "llama.cpp and LM Studio load the projector by themselves.")


def _from_disk(directory: DescribedDirectory, model: DescribedFile) -> Iterator[str]:
    name = quote(model.names[0])
    projector = next((f" --mmproj {quote(file.names[0])}" for file in directory.of(FileRole.MMPROJ)), "")
    yield from ("llama.cpp:", "", "```sh", f"llama-cli -m {name}{projector}", f"llama-server -m {name}{projector}")
    yield from ("```", "", "Ollama:", "", "```sh", f"ollama create NAME -f Modelfile-{model.label}", "ollama run NAME")
    yield from ("```", "", "LM Studio:", "", "```sh", f"lms import {name}", "```")


def _parts(model: DescribedFile) -> str:
    """Give the pattern of a split model's files."""
    found = PART.fullmatch(model.names[0])
    return model.names[0] if found is None else f"{found['whole']}-*-of-{found['count']}.gguf"
