"""`tokenizer.model`: pieces, scores and types, with the tokens added beside it, padded to the embeddings.

Source: conversion/base.py, TextModel._create_vocab_sentencepiece, does_token_look_special @ 0c1e570.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from gguf import TokenType
from sentencepiece import SentencePieceProcessor

from convert.errors import TokenizerError
from convert.shown import shown, shown_list
from convert.tokenizer.files import MAX_TOKENS, check_fits, entry, token_id, typed, vocabulary_of
from convert.tokenizer.special_tokens import read_special_tokens
from convert.tokenizer.vocabulary import Vocabulary

if TYPE_CHECKING:
    from convert.tokenizer.files import TokenizerFiles

MAX_ID_DIGITS: Final = 12
PAD_SCORE: Final = -10000.0
ADDED_SCORE: Final = -1000.0
WORD_BOUNDARY: Final = "▁"

_MODEL: Final = "tokenizer.model"
_ADDED: Final = "added_tokens.json"
_CONFIG: Final = "tokenizer_config.json"
_JSON: Final = "tokenizer.json"
_LOOK_SPECIAL: Final = frozenset(("<pad>", "<mask>", "<2mass>", "[@BOS@]"))

Entry = tuple[bytes, float, TokenType]


def read_sentencepiece(
    files: TokenizerFiles, *, vocab_size: int | None, may_lack: tuple[str, ...] = (), as_marked: bool = False
) -> Vocabulary:
    """Read `tokenizer.model`, `added_tokens.json` and `added_tokens_decoder`, each over what came before.

    as_marked: added tokens are control tokens only where they are marked special, and keep their word boundaries;
    tokenizer.json's are read too (conversion/phi.py, Phi3MiniModel.set_vocab).
    may_lack: added tokens that are left out, as the reference does with any, if they lie at or beyond vocab_size.
    Raises TokenizerError if a file is broken, or a token lies at or beyond vocab_size.
    """
    processor = _load(files)
    n_pieces = processor.vocab_size()
    size = n_pieces if vocab_size is None else vocab_size
    if n_pieces > size:
        check_fits(processor.IdToPiece(size), size, vocab_size=size, file=_MODEL)
    entries = [_piece(processor, number) for number in range(n_pieces)]
    entries += [pad_token(number) for number in range(n_pieces, size)]
    _add_tokens_json(files, entries, may_lack)
    _add_tokens_decoder(files, entries, may_lack, as_marked=as_marked)
    if as_marked:
        _add_tokens_of_json(files, entries)
    remarks = _compare_with_json(files, entries, n_pieces)
    tokens, scores, types = zip(*entries, strict=True)
    return Vocabulary(
        model="llama",
        pre="default",
        tokens=tokens,
        scores=scores,
        token_types=types,
        special=read_special_tokens(files, n_tokens=size),
        remarks=remarks,
    )


def pad_token(number: int) -> Entry:
    """Return the token that stands where the embeddings have a row and the vocabulary has nothing."""
    return f"[PAD{number}]".encode(), PAD_SCORE, TokenType.UNUSED


def looks_special(token: str) -> bool:
    """Whether a token that is not marked special has the look of a control token."""
    return (
        token in _LOOK_SPECIAL
        or (token.startswith("<|") and token.endswith("|>"))
        or (token.startswith("<｜") and token.endswith("｜>"))  # noqa: RUF001 - deepseek's, in full width
        or (token.startswith("<unused") and token.endswith(">"))
    )


def added_token(token: str, *, special: bool) -> tuple[str, TokenType]:
    """Return an added token's text and type: what is not a control token has its word boundaries as spaces."""
    if special or looks_special(token):
        return token, TokenType.CONTROL
    return token.replace(WORD_BOUNDARY, " "), TokenType.USER_DEFINED


def _load(files: TokenizerFiles) -> SentencePieceProcessor:
    path = files.directory / files.model_name
    processor = SentencePieceProcessor()
    try:
        processor.LoadFromSerializedProto(files.content(files.model_name) or b"")
        n_pieces = processor.vocab_size()
    except (RuntimeError, OSError, ValueError, TypeError) as error:
        raise TokenizerError(f"{shown(path)} is not a sentencepiece model: {shown(error)}") from error
    if not 0 < n_pieces <= MAX_TOKENS:
        raise TokenizerError(f"{shown(path)} has {n_pieces} pieces, wanted 1 to {MAX_TOKENS}")
    return processor


def _piece(processor: SentencePieceProcessor, number: int) -> Entry:
    try:
        piece: bytes = processor.IdToPiece(number).encode("utf-8")
    except UnicodeError as error:
        raise TokenizerError(f"`{_MODEL}`: piece {number} is not UTF-8") from error
    return piece, float(processor.GetScore(number)), _piece_type(processor, number)


def _piece_type(processor: SentencePieceProcessor, number: int) -> TokenType:
    """Return the piece's type. Parity: a user-defined piece is NORMAL."""
    if processor.IsUnknown(number):
        return TokenType.UNKNOWN
    if processor.IsControl(number):
        return TokenType.CONTROL
    if processor.IsUnused(number):
        return TokenType.UNUSED
    return TokenType.BYTE if processor.IsByte(number) else TokenType.NORMAL


def _add_tokens_json(files: TokenizerFiles, entries: list[Entry], may_lack: tuple[str, ...]) -> None:
    for token, number in vocabulary_of(files.json(_ADDED) or {}, file=_ADDED, key=_ADDED).items():
        if number >= len(entries) and token in may_lack:
            continue
        check_fits(token, number, vocab_size=len(entries), file=_ADDED)
        entries[number] = token.encode("utf-8"), ADDED_SCORE, TokenType.USER_DEFINED


def _add_tokens_of_json(files: TokenizerFiles, entries: list[Entry]) -> None:
    for item in entry(files.tokenizer or {}, "added_tokens", list, file=_JSON) or []:
        data = typed(item, dict, file=_JSON, key="added_tokens")
        content = typed(data.get("content"), str, file=_JSON, key="added_tokens.content")
        number = token_id(data.get("id"), file=_JSON, key=f"added_tokens.{content}")
        check_fits(content, number, vocab_size=len(entries), file=_JSON)
        special = entry(data, "special", bool, file=_JSON, at=f"added_tokens.{content}.")
        entries[number] = content.encode("utf-8"), ADDED_SCORE, _marked(special=bool(special))


def _marked(*, special: bool) -> TokenType:
    return TokenType.CONTROL if special else TokenType.USER_DEFINED


def _add_tokens_decoder(
    files: TokenizerFiles, entries: list[Entry], may_lack: tuple[str, ...], *, as_marked: bool
) -> None:
    decoder = entry(files.config or {}, "added_tokens_decoder", dict, file=_CONFIG) or {}
    for key, value in decoder.items():
        at = f"added_tokens_decoder.{key}"
        number = decoder_id(key)
        data = typed(value, dict, file=_CONFIG, key=at)
        content = typed(data.get("content"), str, file=_CONFIG, key=f"{at}.content")
        special = entry(data, "special", bool, file=_CONFIG, at=f"{at}.")
        if number >= len(entries) and content in may_lack:
            continue
        check_fits(content, number, vocab_size=len(entries), file=_CONFIG)
        text, type_ = content, _marked(special=bool(special))
        if not as_marked:
            text, type_ = added_token(content, special=bool(special))
        entries[number] = text.encode("utf-8"), ADDED_SCORE, type_


def _compare_with_json(files: TokenizerFiles, entries: list[Entry], n_pieces: int) -> tuple[str, ...]:
    """Take from tokenizer.json what would become a pad: a tokenizer.model is often older than the tokens added since.

    The reference does not look. Raises TokenizerError where tokenizer.json has pieces of its own beyond the model's.
    """
    taken = _take_added(files, entries)
    base = (entry(files.tokenizer or {}, "model", dict, file=_JSON) or {}).get("vocab")
    ids = {token: number for token, number in base.items() if type(number) is int} if isinstance(base, dict) else {}
    if lost := [token for token, number in ids.items() if _is_pad(entries, number)]:
        raise TokenizerError(
            f"{shown(_MODEL)} has {n_pieces} pieces, and lacks {len(lost)} that {shown(_JSON)} has: {shown_list(lost)}",
            hint=f"it is an older model's: take {_MODEL} out of the directory, or put the right one there",
        )
    remarks = [f"tokens that {_MODEL} lacks are taken from {_JSON}: {shown_list(taken)}"] if taken else []
    if others := [token for token, number in ids.items() if _is_another(entries[:n_pieces], number, token)]:
        remarks.append(f"{_MODEL} and {_JSON} have other tokens under {len(others)} ids: {shown_list(others, most=3)}")
    return tuple(remarks)


def _take_added(files: TokenizerFiles, entries: list[Entry]) -> list[str]:
    taken = []
    for item in entry(files.tokenizer or {}, "added_tokens", list, file=_JSON) or []:
        token = typed(item, dict, file=_JSON, key="added_tokens")
        content, number = token.get("content"), token.get("id")
        if isinstance(content, str) and type(number) is int and _is_pad(entries, number):
            text, type_ = added_token(content, special=token.get("special") is True)
            entries[number] = text.encode("utf-8"), ADDED_SCORE, type_
            taken.append(content)
    return taken


def _is_pad(entries: list[Entry], number: int) -> bool:
    return 0 <= number < len(entries) and entries[number] == pad_token(number)


def _is_another(pieces: list[Entry], number: int, token: str) -> bool:
    if not 0 <= number < len(pieces):
        return False
    text, _, type_ = pieces[number]
    return type_ is TokenType.NORMAL and text != token.encode("utf-8", "surrogatepass")


def decoder_id(key: str) -> int:
    """Return the id that a key of `added_tokens_decoder` says."""
    if not (key.isascii() and key.isdigit() and len(key) <= MAX_ID_DIGITS):
        raise TokenizerError(f"`{_CONFIG}`: `added_tokens_decoder` has the key {shown(key)}, wanted a token id")
    return token_id(int(key), file=_CONFIG, key=f"added_tokens_decoder.{key}")
