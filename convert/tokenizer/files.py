"""A tokenizer's JSON files, read once and typed at the border: an error names the file and the key."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from convert.checkpoint.json_file import read_json
from convert.errors import CheckpointError, TokenizerError

if TYPE_CHECKING:
    from pathlib import Path

_MAX_TEMPLATE_NBYTES: Final = 4 << 20
_MAX_TOKENIZER_NBYTES: Final = 256 << 20


@dataclass(frozen=True, slots=True)
class AddedToken:
    """A token beside the model's own vocabulary.

    normalized: whether text is normalized before the token is looked for; it changes how it is stored.
    """

    id: int
    content: str
    special: bool
    normalized: bool


@dataclass(frozen=True, slots=True)
class TokenizerFiles:
    """What a directory has of a tokenizer; an absent file is an empty mapping (None for tokenizer.json)."""

    directory: Path
    tokenizer_json: Mapping[str, Any] | None
    tokenizer_config: Mapping[str, Any]
    model_config: Mapping[str, Any]
    added_tokens_json: Mapping[str, int]

    def wrong(self, file: str, key: str, wanted: str) -> TokenizerError:
        """Make the error for a value of the wrong kind."""
        return TokenizerError(f"`{key}` in `{self.directory / file}` is not {wanted}")


def read_files(directory: Path) -> TokenizerFiles:
    """Read the JSON files of a tokenizer; raises TokenizerError for a broken one."""
    added = _mapping(directory, "added_tokens.json") or {}
    for content, number in added.items():
        if not _is_id(number):
            raise TokenizerError(f"`{directory / 'added_tokens.json'}` gives {content!r:.60} the id {number!r:.40}")
    return TokenizerFiles(
        directory,
        _mapping(directory, "tokenizer.json"),
        _mapping(directory, "tokenizer_config.json") or {},
        _mapping(directory, "config.json") or {},
        added,
    )


def read_text(path: Path) -> str:
    """Read a text file of a bounded length, UTF-8."""
    if path.stat().st_size > _MAX_TEMPLATE_NBYTES:
        raise TokenizerError(f"`{path}` has {path.stat().st_size} bytes, at most {_MAX_TEMPLATE_NBYTES} make sense")
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise TokenizerError(f"`{path}` is not UTF-8") from error


def parse_added_token(data: object, number: object, where: str) -> AddedToken:
    """Read an entry of `added_tokens` (tokenizer.json) or `added_tokens_decoder` (tokenizer_config.json)."""
    if not isinstance(data, Mapping) or not isinstance(data.get("content"), str) or not _is_id(number):
        raise TokenizerError(f"{where} is not an added token: an id and its `content`")
    assert isinstance(number, int)  # noqa: S101 - for the type checker
    special = bool(data.get("special", False))
    # tokenizers and transformers: a token is normalized unless it is special or says otherwise.
    return AddedToken(number, data["content"], special, bool(data.get("normalized", not special)))


def added_tokens_of(files: TokenizerFiles) -> tuple[AddedToken, ...]:
    """Return tokenizer.json's added tokens, in file order."""
    entries = (files.tokenizer_json or {}).get("added_tokens") or []
    if not isinstance(entries, list):
        raise files.wrong("tokenizer.json", "added_tokens", "an array")
    where = f"an entry of `added_tokens` in `{files.directory / 'tokenizer.json'}`"
    return tuple(
        parse_added_token(entry, entry.get("id") if isinstance(entry, Mapping) else None, where) for entry in entries
    )


def added_tokens_decoder_of(files: TokenizerFiles) -> tuple[AddedToken, ...]:
    """Return tokenizer_config.json's added tokens, in file order."""
    entries = files.tokenizer_config.get("added_tokens_decoder") or {}
    if not isinstance(entries, Mapping):
        raise files.wrong("tokenizer_config.json", "added_tokens_decoder", "an object")
    where = f"an entry of `added_tokens_decoder` in `{files.directory / 'tokenizer_config.json'}`"
    return tuple(
        parse_added_token(entry, int(number) if number.isdecimal() and len(number) < 10 else None, where)  # noqa: PLR2004
        for number, entry in entries.items()
    )


def check_room(tokens: Mapping[int, str], vocab_size: int, directory: Path) -> None:
    """Raise TokenizerError if a token has no row in the embeddings."""
    beyond = {number: token for number, token in tokens.items() if number >= vocab_size}
    if beyond:
        number = min(beyond)
        raise TokenizerError(
            f"the tokenizer in `{directory}` has {len(beyond)} tokens beyond `vocab_size` {vocab_size} of config.json: "
            f"the first is `{beyond[number]}`, id {number}; the model cannot run with them",
            hint="resize the embeddings to the tokenizer, or remove the tokens from added_tokens.json and "
            "tokenizer_config.json if the model was never trained on them",
        )


def _mapping(directory: Path, name: str) -> dict[str, Any] | None:
    path = directory / name
    if not path.exists():
        return None
    try:
        return read_json(path, max_nbytes=_MAX_TOKENIZER_NBYTES)
    except CheckpointError as error:
        raise TokenizerError(error.message, hint=error.hint) from error


def _is_id(number: object) -> bool:
    return isinstance(number, int) and not isinstance(number, bool) and 0 <= number < 1 << 31
