"""Every error a user can meet, as one tree; each class has the exit code the command ends with.

ConvertError                  1
├── UsageError                2   the command line or a function's arguments
├── CheckpointError           3   the model directory: missing, broken, hostile
│   ├── ConfigError           3   config.json: a key that is missing, of the wrong type, or absurd
│   ├── TokenizerError        3   tokenizer files
│   └── WeightsError          3   NaN, infinity or float16 overflow in a weight
├── UnsupportedError          4   well formed, but not something this version converts
├── PlanError                 5   names, shapes or types that cannot be brought together
│   └── ShapeError            5   rows that a codec cannot take
├── OutputError               6   disk space, permissions, existing files
├── ToolchainError            7   llama.cpp could not be fetched, built or run
│   ├── ProgramError          7   a program ended badly
│   └── NoSourceError         7   llama.cpp's source is needed, and has not been fetched
├── RecipeError               8   a recipe file
└── VerificationError         9   an output is not what it should be
"""

from __future__ import annotations

from enum import Enum
from types import MappingProxyType
from typing import TYPE_CHECKING, ClassVar, Final

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path


class Remedy(Enum):
    """What a user can do about an error; how that is asked for, each face says in its own words."""

    WIDER_FLOAT = "a float type of a wider range"
    ALLOW_NONFINITE = "write values as they come, infinities too"
    FORCE = "replace what is there"
    OTHER_PLACE = "write elsewhere"
    MORE_ROOM = "free the disk, or write less to it"
    NAME_DIRECTORY = "name a directory; what the files in it are called is another matter"
    GIVE_NAME = "say how the files are to be called"
    LARGER_SHARDS = "larger files of weights"
    LARGER_PARTS = "larger parts of a GGUF file"
    MERGE_PARTS = "put the parts of a GGUF file together"
    WITHOUT_THROUGH = "leave out the way through a packed type"
    NAME_PRE_TOKENIZER = "say which pre-tokenizer it is"
    GIVE_BASE = "give an adapter together with its base"
    GIVE_CONFIG = "give the model's config.json"
    GIVE_TOKENIZER = "give the directory of the tokenizer's files"
    GIVE_EPSILON = "say the norms' epsilon"
    GIVE_CONTEXT = "say how long a text may be"
    GIVE_COMMON_BASE = "give adapters together with the model below them all"
    ALLOW_PUBLIC = "let a repository be public"
    CONVERT_CHECKPOINT = "convert a checkpoint instead"
    QUANTIZE_OLD = "make a GGUF file of one that is older"
    QUANTIZE_GGUF = "quantize a GGUF file instead"
    BUILD_ELSEWHERE = "build llama.cpp in another place"
    OTHER_COMMIT = "name another commit of llama.cpp"
    OWN_SOURCE = "bring llama.cpp's source"
    CUBLAS_FROM_PYPI = "take cuBLAS from PyPI"
    NAME_GPU = "say which GPU is built for"
    BACKEND_CPU = "build for the processor"
    GIVE_IMPORTANCE = "give an importance matrix"
    OTHER_TYPES = "make other types"
    REQUANTIZE = "quantize what is quantized already"
    SEE_DOCTOR = "look at what the machine has"
    FETCH_SOURCE = "fetch llama.cpp's source"
    OTHER_SOURCE = "take another llama.cpp"
    TRUST_CODE = "let a checkpoint's own code run"
    MORE_MEMORY = "allow more memory"
    LIST_ARCHITECTURES = "see which architectures there are"
    NAME_TYPES = "say the type of tensors by name"
    ALLOW_INEXACT = "quantize again what cannot be exact"


# A program that calls the package asks by arguments.
LIBRARY_WORDS: Final[Mapping[Remedy, str]] = MappingProxyType(
    {
        Remedy.WIDER_FLOAT: "keep the range with bf16",
        Remedy.ALLOW_NONFINITE: "write the file all the same with allow_nonfinite=True",
        Remedy.FORCE: "force=True replaces",
        Remedy.OTHER_PLACE: "choose another path",
        Remedy.MORE_ROOM: "make room, or choose another directory",
        Remedy.NAME_DIRECTORY: "name a directory: files are called NAME-TYPE.gguf; `convert_one` writes to any path",
        Remedy.GIVE_NAME: "give one as `name`",
        Remedy.LARGER_SHARDS: "give a larger `max_shard_size`",
        Remedy.LARGER_PARTS: "make the parts larger (`max_size` or `max_tensors`)",
        Remedy.MERGE_PARTS: "`convert.conversion.merge` puts them together",
        Remedy.WITHOUT_THROUGH: "without `through` it is dequantized to what it holds",
        Remedy.NAME_PRE_TOKENIZER: (
            "say which of llama.cpp's it is by `pre_tokenizer` (`default` is falcon's, seldom right)"
        ),
        Remedy.GIVE_BASE: "give the base as the model, and `{adapter}` as `merge`",
        Remedy.GIVE_CONFIG: "give the model's config.json by `Stated(config=…)`",
        Remedy.GIVE_TOKENIZER: "give a directory that has the tokenizer's files by `Stated(tokenizer=…)`",
        Remedy.GIVE_EPSILON: "say it by `Stated(eps=…)`: 1e-6 in Llama 1 and OpenLLaMA, 1e-5 in Llama 2",
        Remedy.GIVE_CONTEXT: "say it by `Stated(context=…)`",
        Remedy.GIVE_COMMON_BASE: "give the model that both belong to, and both adapters as `merge`",
        Remedy.ALLOW_PUBLIC: "make it private in its settings, or leave out private=True",
        Remedy.CONVERT_CHECKPOINT: "`convert.convert_all` makes GGUF files of a checkpoint",
        Remedy.QUANTIZE_OLD: "`convert.quantize` makes a GGUF of it, its blocks as they are by types='copy'",
        Remedy.QUANTIZE_GGUF: "a float GGUF goes to `convert.quantize`",
        Remedy.BUILD_ELSEWHERE: "give another `directory`",
        Remedy.OTHER_COMMIT: "name the commit, tag or branch to build as `ref`",
        Remedy.OWN_SOURCE: "give the path of a source tree as `source`",
        Remedy.CUBLAS_FROM_PYPI: "cublas='pypi' takes it from the nvidia-cublas wheel",
        Remedy.NAME_GPU: "cuda_arch='90', say, builds for a GPU elsewhere (its compute capability, no point)",
        Remedy.BACKEND_CPU: "backend='cpu' works everywhere",
        Remedy.GIVE_IMPORTANCE: "give an importance matrix that has them, by quantize_options(imatrix=…)",
        Remedy.OTHER_TYPES: "leave out these types",
        Remedy.REQUANTIZE: "quantize_options(allow_requantize=True) does it all the same",
        Remedy.SEE_DOCTOR: "the command `convert doctor` shows what there is",
        Remedy.FETCH_SOURCE: "`convert.llama_cpp.fetch_tree()` fetches it, compiling nothing",
        Remedy.OTHER_SOURCE: "a newer llama.cpp may have it: `ref` of the definition",
        Remedy.TRUST_CODE: "where you trust it, `trusts_code=True` of the definition lets it run, without a network",
        Remedy.MORE_MEMORY: "allow more by `max_memory` of the definition",
        Remedy.NAME_TYPES: "give another type to it by `tensor_type`, `output_tensor_type` or `token_embedding_type`",
        Remedy.ALLOW_INEXACT: "lossless='possible' quantizes it as usual",
        Remedy.LIST_ARCHITECTURES: "`convert.llama_cpp.front_end.known_architectures()` lists them",
    }
)


class ConvertError(Exception):
    """Root of the tree: a message in one line, and what to do about it, where that is known.

    remedies: what would help, each by itself. facts: what their words name, such as `{adapter}`.
    words: what the remedies are called where the error is shown.
    """

    exit_code: ClassVar[int] = 1

    def __init__(
        self,
        message: str,
        *,
        hint: str | None = None,
        remedies: Sequence[Remedy] = (),
        facts: Mapping[str, object] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.remedies = tuple(remedies)
        self.facts = facts or {}
        self.words: Mapping[Remedy, str] = LIBRARY_WORDS
        self._hint = hint

    @property
    def hint(self) -> str | None:
        """The remedies in the words of the face, then what else helps; None where nothing is known."""
        remedies = "; or ".join(filter(None, (self.words[each].format_map(self.facts) for each in self.remedies)))
        return "; ".join(filter(None, (remedies, self._hint))) or None


class UsageError(ConvertError):
    """The command line, or a function's arguments, make no sense."""

    exit_code = 2


class CheckpointError(ConvertError):
    """The checkpoint is missing, truncated, inconsistent or hostile."""

    exit_code = 3


class ConfigError(CheckpointError):
    """`config.json` lacks a key, or a value has the wrong type or an absurd size."""


class TokenizerError(CheckpointError):
    """The tokenizer files are missing, broken or contradict the model."""


class WeightsError(CheckpointError):
    """A weight is NaN or infinite, or overflows the type asked for."""


class UnsupportedError(ConvertError):
    """A well-formed input of a kind that this version does not convert."""

    exit_code = 4


class PlanError(ConvertError):
    """The checkpoint's tensors, the config and the request cannot be brought together."""

    exit_code = 5


class ShapeError(PlanError):
    """Rows have a length that the codec cannot take."""


class OutputError(ConvertError):
    """An output cannot be written: disk space, permissions, or a file that is already there."""

    exit_code = 6


class ToolchainError(ConvertError):
    """llama.cpp, or a tool needed to build it, could not be fetched, built or run."""

    exit_code = 7


class ProgramError(ToolchainError):
    """A program could not be started, ran out of time, or ended with an exit code other than 0.

    command: its arguments, the program first. exit_code_of_program: negative for a signal, None if it never ended.
    step: what it was to do. log: the file with all it said, if there is one.
    """

    def __init__(
        self,
        message: str,
        *,
        command: Sequence[str],
        step: str | None = None,
        exit_code_of_program: int | None = None,
        log: Path | None = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(message, hint=hint)
        self.command = tuple(command)
        self.step = step
        self.exit_code_of_program = exit_code_of_program
        self.log = log


class NoSourceError(ToolchainError):
    """llama.cpp's own definitions are needed, and its source is not here. ref: which, if not the pinned one."""

    def __init__(self, message: str, *, ref: str | None = None) -> None:
        super().__init__(message, remedies=(Remedy.FETCH_SOURCE,), facts={"ref": f" --ref {ref}" if ref else ""})
        self.ref = ref


class RecipeError(ConvertError):
    """A recipe file is wrong."""

    exit_code = 8


class VerificationError(ConvertError):
    """An output, read again, is not what it should be."""

    exit_code = 9
