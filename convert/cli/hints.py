"""What each remedy is called on the command line: the options to give."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

import click

from convert.errors import ConvertError, Remedy

if TYPE_CHECKING:
    from collections.abc import Mapping

GGUF_WORDS: Final[Mapping[Remedy, str]] = {
    Remedy.WIDER_FLOAT: "keep the range with --types bf16",
    Remedy.ALLOW_NONFINITE: "write the file all the same with --allow-nonfinite",
    Remedy.FORCE: "--force replaces",
    Remedy.OTHER_PLACE: "choose another directory or --name",
    Remedy.MORE_ROOM: "choose fewer types with --types, or another directory",
    Remedy.NAME_DIRECTORY: (
        "name a directory: its files are called NAME-TYPE.gguf (--name); `convert gguf MODEL OUT.gguf` writes one file"
    ),
    Remedy.GIVE_NAME: "give one with --name",
    Remedy.LARGER_SHARDS: "give --max-shard-size",
    Remedy.LARGER_PARTS: "make the parts larger (--split-max-size or --split-max-tensors)",
    Remedy.MERGE_PARTS: "`convert merge FIRST OUT.gguf` puts them together",
    Remedy.WITHOUT_THROUGH: "without --through it is dequantized to what it holds",
    Remedy.NAME_PRE_TOKENIZER: (
        "say which of llama.cpp's it is with `--pre-tokenizer NAME` (`default` is falcon's, seldom right)"
    ),
    Remedy.GIVE_BASE: "give the base: `convert … BASE … --merge {adapter}`",
    Remedy.GIVE_CONFIG: "give the model's config.json with --config",
    Remedy.GIVE_TOKENIZER: "give a directory that has the tokenizer's files with --tokenizer",
    Remedy.GIVE_EPSILON: "say it with --eps: 1e-6 in Llama 1 and OpenLLaMA, 1e-5 in Llama 2",
    Remedy.GIVE_CONTEXT: "say it in tokens with --context",
    Remedy.GIVE_COMMON_BASE: "give the model that both belong to: `convert … BASE … --merge FIRST --merge SECOND`",
    Remedy.ALLOW_PUBLIC: "make it private in its settings, or upload without --private",
    Remedy.CONVERT_CHECKPOINT: "`convert all MODEL OUTDIR` makes GGUF files of a checkpoint",
    Remedy.QUANTIZE_OLD: "`convert quantize --types copy` makes a GGUF of it, its blocks as they are",
    Remedy.QUANTIZE_GGUF: "an F32, F16 or BF16 GGUF is quantized with `convert quantize`",
    Remedy.BUILD_ELSEWHERE: "`--dir` names another place",
    Remedy.OTHER_COMMIT: "name the commit, tag or branch to build with `--ref`",
    Remedy.OWN_SOURCE: "`--source PATH` builds a source tree that you bring yourself",
    Remedy.CUBLAS_FROM_PYPI: "`--cublas pypi` takes it from the nvidia-cublas wheel",
    Remedy.NAME_GPU: (
        "`--cuda-arch 90`, say, builds for a GPU that is elsewhere (its compute capability without the point)"
    ),
    Remedy.BACKEND_CPU: "`--backend cpu` works everywhere",
    Remedy.GIVE_IMPORTANCE: "give an importance matrix that has them with --imatrix",
    Remedy.OTHER_TYPES: "leave these types out of --types",
    Remedy.REQUANTIZE: "--allow-requantize does it all the same",
    Remedy.SEE_DOCTOR: "`convert doctor` shows what there is",
    Remedy.FETCH_SOURCE: "`convert build-llamacpp --source-only{ref}` fetches it, compiling nothing",
    Remedy.OTHER_SOURCE: "a newer llama.cpp may have it: `--ref`",
    Remedy.TRUST_CODE: "where you trust it, `--trust-remote-code` lets it run, without a network",
    Remedy.MORE_MEMORY: "allow more with --max-memory",
    Remedy.NAME_TYPES: "give another type to it with --tensor-type, --output-tensor-type or --token-embedding-type",
    Remedy.ALLOW_INEXACT: "--lossless without =strict quantizes it as usual",
    Remedy.LIST_ARCHITECTURES: "`convert inspect --architectures` lists what there is",
}
_DEQUANTIZE: Final[Mapping[Remedy, str]] = {
    **GGUF_WORDS,
    Remedy.WIDER_FLOAT: "keep the range with --dtype bf16",
    Remedy.OTHER_PLACE: "choose another directory",
    Remedy.NAME_DIRECTORY: "name a directory",
    Remedy.MORE_ROOM: "make room, or choose another directory",
}
_IMATRIX: Final[Mapping[Remedy, str]] = {**GGUF_WORDS, Remedy.OTHER_PLACE: "choose another file with -o"}
_GGUF: Final[Mapping[Remedy, str]] = {
    **GGUF_WORDS,
    Remedy.WIDER_FLOAT: "keep the range with --type bf16",
    Remedy.OTHER_PLACE: "choose another OUT.gguf",
    Remedy.MORE_ROOM: "make room, or choose another disk",
    Remedy.OTHER_TYPES: "choose another --type",
}
_SPLIT: Final[Mapping[Remedy, str]] = {
    **GGUF_WORDS,
    Remedy.OTHER_PLACE: "choose another OUT",
    Remedy.NAME_DIRECTORY: "choose another OUT",
    Remedy.MORE_ROOM: "make room, or choose another disk",
}
RECIPE_WORDS: Final[Mapping[Remedy, str]] = {
    **GGUF_WORDS,
    Remedy.WIDER_FLOAT: 'keep the range with `types = "bf16"`',
    Remedy.ALLOW_NONFINITE: "write the file all the same with `allow-nonfinite = true`",
    Remedy.FORCE: "`force = true` replaces",
    Remedy.OTHER_PLACE: "choose another `outdir` or `name`",
    Remedy.MORE_ROOM: "choose fewer `types`, or another `outdir`",
    Remedy.GIVE_NAME: "give one as `name`",
    Remedy.LARGER_SHARDS: "give a larger `max-shard-size`",
    Remedy.LARGER_PARTS: "make the parts larger: `split-max-size` or `split-max-tensors`",
    Remedy.WITHOUT_THROUGH: "without `through` it is dequantized to what it holds",
    Remedy.NAME_PRE_TOKENIZER: (
        "say which of llama.cpp's it is with `pre-tokenizer` (`default` is falcon's, seldom right)"
    ),
    Remedy.GIVE_BASE: 'give the base among `models`, and `merge = ["{adapter}"]`',
    Remedy.GIVE_COMMON_BASE: "give the model that both belong to among `models`, and both as `merge`",
    Remedy.ALLOW_PUBLIC: "make it private in its settings, or leave out `private`",
    Remedy.GIVE_IMPORTANCE: "give an importance matrix that has them as `imatrix`",
    Remedy.OTHER_TYPES: "leave these types out of `types`",
    Remedy.REQUANTIZE: "`allow-requantize = true` does it all the same",
    Remedy.OTHER_SOURCE: "a newer llama.cpp may have it: `ref`",
    Remedy.TRUST_CODE: "where you trust it, `trust-remote-code = true` lets it run, without a network",
    Remedy.MORE_MEMORY: "allow more with `max-memory`",
    Remedy.NAME_DIRECTORY: "name a directory: its files are called NAME-TYPE.gguf (`name`)",
    Remedy.NAME_TYPES: "give another type to it with `tensor-type`, `output-tensor-type` or `token-embedding-type`",
    Remedy.ALLOW_INEXACT: '`lossless = "possible"` quantizes it as usual',
}
# Of a command that lacks the option that would be named.
_WITHOUT_OPTIONS: Final[Mapping[Remedy, str]] = {
    Remedy.OTHER_PLACE: "choose another directory",
    Remedy.MORE_ROOM: "make room, or choose another directory",
    Remedy.NAME_DIRECTORY: "name a directory",
}
_OPTION: Final = re.compile(r"(?<![\w-])--[a-z][a-z-]*")
_COMMAND_LINE: Final = re.compile(r"`convert [^`]*`")
_OF_COMMAND: Final = {
    "gguf": _GGUF,
    "dequantize": _DEQUANTIZE,
    "imatrix": _IMATRIX,
    "split": _SPLIT,
    "merge": _SPLIT,
    "recipe": RECIPE_WORDS,
}
ALL_WORDS: Final = (GGUF_WORDS, *_OF_COMMAND.values())


class _OptionalValues(click.Command):
    """A command that does not take what follows `--lossless` for its value: that is given as `--lossless=strict`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Give Click the value that is meant."""
        return super().parse_args(ctx, ["--lossless=possible" if arg == "--lossless" else arg for arg in args])


class HintingGroup(click.Group):
    """Commands whose errors hint at their own options."""

    command_class = _OptionalValues

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command that is asked for, and let its errors speak as it does."""
        try:
            return super().invoke(ctx)
        except ConvertError as error:
            error.words = words_of(self.commands[ctx.invoked_subcommand or ""])
            raise


def words_of(command: click.Command) -> Mapping[Remedy, str]:
    """Say what each remedy is called where a command runs: options that it lacks are not named."""
    words = _OF_COMMAND.get(command.name or "", GGUF_WORDS)
    known = {option for parameter in command.params for option in parameter.opts}
    return {
        remedy: said if options_in(said) <= known else _WITHOUT_OPTIONS.get(remedy, "")
        for remedy, said in words.items()
    }


def options_in(words: str) -> set[str]:
    """Give the options that words name, those of whole command lines aside."""
    return set(_OPTION.findall(_COMMAND_LINE.sub("", words)))
