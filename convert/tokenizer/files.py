"""The tokenizer's files in a checkpoint directory: read once, typed at the border; errors name file and key."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, TypeVar

from convert.checkpoint.json_file import read_json
from convert.checkpoint.regular_file import file_nbytes, open_regular, refuse_lfs_pointer
from convert.errors import CheckpointError, TokenizerError
from convert.shown import shown
from convert.tokenizer.ranked import LLAMA_3_ROLES, TEKKEN_ROLES, TIKTOKEN_LINE, of_tekken, of_tiktoken

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

T = TypeVar("T")

_MODEL: Final = "tokenizer.model"
MAX_TEXT_NBYTES: Final = 64 << 20
_TIKTOKEN_LINE_NBYTES: Final = 256
MAX_TOKENS: Final = 1 << 20  # the largest vocabulary in use has about 262 thousand
KINDS: Final[dict[type, str]] = {
    dict: "an object",
    list: "a list",
    str: "a string",
    bool: "true or false",
    int: "an integer",
}


@dataclass(frozen=True)
class TokenizerFiles:
    """A checkpoint directory, seen as a tokenizer. A file that is not there reads as None.

    known_config: the model's `config.json`, where it was read already; None: it is read from the same directory.
    """

    directory: Path
    known_config: Mapping[str, Any] | None = None

    @cached_property
    def tokenizer(self) -> dict[str, Any] | None:
        """`tokenizer.json`; or what it would say, where there is a vocabulary of bytes and ranks instead."""
        if self.is_ranked and self.has("tekken.json"):
            return of_tekken(self.json("tekken.json") or {}, file="tekken.json")
        if self.is_ranked:
            return of_tiktoken(self.content(_MODEL) or b"", self.model_config or {}, file=_MODEL)
        return self.json("tokenizer.json")

    @cached_property
    def config(self) -> dict[str, Any] | None:
        """`tokenizer_config.json`; or what it would say of a vocabulary of bytes and ranks."""
        if not self.is_ranked or self.has("tokenizer_config.json"):
            return self.json("tokenizer_config.json")
        return dict(TEKKEN_ROLES if self.has("tekken.json") else LLAMA_3_ROLES)

    @cached_property
    def model_config(self) -> Mapping[str, Any] | None:
        """`config.json`."""
        return self.json("config.json") if self.known_config is None else self.known_config

    @cached_property
    def model_name(self) -> str:
        """What `tokenizer.model` is called: Mistral's has its version behind it, `tokenizer.model.v3`."""
        if self.has(_MODEL) or self.has("tekken.json"):
            return _MODEL
        versions = sorted(path.name for path in self.directory.glob(f"{_MODEL}.v*"))
        return versions[-1] if versions else _MODEL

    def has(self, name: str) -> bool:
        """Whether the directory holds something of that name: a link that leads nowhere counts, and fails when read."""
        path = self.directory / name
        return path.is_symlink() or path.exists()

    @cached_property
    def has_pieces(self) -> bool:
        """Whether there is a `tokenizer.model` that is not Meta's tiktoken file, which has the same name."""
        return self.has(self.model_name) and not self.has_tiktoken

    @cached_property
    def has_tiktoken(self) -> bool:
        """Whether `tokenizer.model` is lines of a token in base64 and its rank, as Meta's Llama 3 has it."""
        path = self.directory / _MODEL
        if not path.is_file():
            return False
        with path.open("rb") as file:
            return TIKTOKEN_LINE.match(file.read(_TIKTOKEN_LINE_NBYTES)) is not None

    @cached_property
    def is_ranked(self) -> bool:
        """Whether the tokenizer is Meta's tiktoken file or Mistral's `tekken.json`, and nothing beside it."""
        others = ("tokenizer.json", "vocab.json")
        return (self.has_tiktoken or self.has("tekken.json")) and not any(map(self.has, others))

    @property
    def made(self) -> dict[str, dict[str, Any]]:
        """The files, by name, that transformers needs and that a vocabulary of bytes and ranks stands for."""
        found = {"tokenizer.json": self.tokenizer, "tokenizer_config.json": self.config}
        return {name: value for name, value in found.items() if value is not None and not self.has(name)}

    def json(self, name: str) -> dict[str, Any] | None:
        """Read a JSON object, or None where the file is missing."""
        if not self.has(name):
            return None
        try:
            return read_json(self.directory / name)
        except CheckpointError as error:
            raise TokenizerError(error.message, hint=error.hint) from error

    def content(self, name: str) -> bytes | None:
        """Read a file whole, or None where it is missing."""
        path = self.directory / name
        if not self.has(name):
            return None
        try:
            with open_regular(path) as file:
                if (nbytes := file_nbytes(file)) > MAX_TEXT_NBYTES:
                    raise TokenizerError(f"{shown(path)} has {nbytes} bytes, at most {MAX_TEXT_NBYTES} are read")
                data = file.read(MAX_TEXT_NBYTES)
            refuse_lfs_pointer(data, path)
        except CheckpointError as error:
            raise TokenizerError(error.message, hint=error.hint) from error
        except OSError as error:
            raise TokenizerError(f"{shown(path)} cannot be read: {error.strerror}") from error
        return data

    def text(self, name: str) -> str | None:
        r"""Read a UTF-8 file, `\r\n` and `\r` turned into `\n` as Python's text mode does; None where it is missing."""
        data = self.content(name)
        if data is None:
            return None
        try:
            return data.decode("utf-8").replace("\r\n", "\n").replace("\r", "\n")
        except UnicodeDecodeError as error:
            reason = f"byte {error.start} is {data[error.start]:#04x}"
            raise TokenizerError(f"{shown(self.directory / name)} is not UTF-8: {reason}") from error


def typed(value: object, wanted: type[T], *, file: str, key: str) -> T:
    """Return the value if it has the type wanted; an integer is not true or false.

    Raises TokenizerError, naming the file and the key.
    """
    if not isinstance(value, wanted) or (wanted is int and isinstance(value, bool)):
        raise TokenizerError(
            f"{shown(file)}: {shown(key)} is {shown(value)}, wanted {KINDS.get(wanted, wanted.__name__)}"
        )
    return value


def entry(mapping: dict[str, Any], key: str, wanted: type[T], *, file: str, at: str = "") -> T | None:
    """Return a key's value, checked as `typed` does; None where the key is missing or null."""
    value = mapping.get(key)
    return None if value is None else typed(value, wanted, file=file, key=f"{at}{key}")


def token_id(value: object, *, file: str, key: str) -> int:
    """Return a token id: an integer from 0 that a vocabulary could have."""
    number = typed(value, int, file=file, key=key)
    if not 0 <= number < MAX_TOKENS:
        raise TokenizerError(f"{shown(file)}: {shown(key)} has id {shown(number)}, wanted 0 to {MAX_TOKENS - 1}")
    return number


def vocabulary_of(value: object, *, file: str, key: str) -> dict[str, int]:
    """Return token → id, checked: no id twice.

    Raises TokenizerError, naming the file and the token.
    """
    vocabulary = typed(value, dict, file=file, key=key)
    owners: dict[int, str] = {}
    for token, value_ in vocabulary.items():
        number = token_id(value_, file=file, key=token)
        if (owner := owners.setdefault(number, token)) != token:
            raise TokenizerError(f"{shown(file)}: {shown(owner)} and {shown(token)} both have id {number}")
    return vocabulary


def check_fits(token: str, number: int, *, vocab_size: int, file: str) -> None:
    """Raise TokenizerError if a token's id lies beyond the embeddings: the model cannot run such a token."""
    if number >= vocab_size:
        raise TokenizerError(
            f"{shown(file)}: token {shown(token)} has id {number}, but config.json says vocab_size {vocab_size}",
            hint="resize the model's embeddings (model.resize_token_embeddings(len(tokenizer))) and save it again,"
            f" or remove the token from {file} and the other tokenizer files",
        )
