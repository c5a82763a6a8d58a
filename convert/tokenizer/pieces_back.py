"""A sentencepiece vocabulary of a GGUF file as tokenizer.model, and as the parts of a tokenizer.json.

Source: sentencepiece, sentencepiece_model.proto (field numbers); transformers, convert_slow_tokenizer.py
(LlamaConverter, generate_merges): a merge is worth what the piece it makes is.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any, Final

from gguf import TokenType

from convert.tokenizer.sentencepiece_model import WORD_BOUNDARY

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

_NORMAL, _UNKNOWN, _CONTROL, _UNUSED, _BYTE = 1, 2, 3, 5, 6
_TYPES: Final[Mapping[TokenType, int]] = {
    TokenType.NORMAL: _NORMAL,
    TokenType.UNKNOWN: _UNKNOWN,
    TokenType.CONTROL: _CONTROL,
    TokenType.USER_DEFINED: _NORMAL,
    TokenType.UNUSED: _UNUSED,
    TokenType.BYTE: _BYTE,
}
_BPE: Final = 2
_ROLE_FIELDS: Final = {"unk": (40, 45), "bos": (41, 46), "eos": (42, 47), "pad": (43, 48)}  # of the id, of the piece


def tokenizer_model(
    texts: Sequence[str], types: Sequence[TokenType], scores: Sequence[float], roles: Mapping[str, int], *, prefix: bool
) -> bytes:
    """Encode a ModelProto. roles: ids by kind. prefix: a space is put before a text."""
    unknown = unknown_token(texts, types, roles.get("unk"))
    kinds = [_UNKNOWN if number == unknown else _TYPES[type_] for number, type_ in enumerate(types)]
    kinds = [_CONTROL if kind == _UNKNOWN and number != unknown else kind for number, kind in enumerate(kinds)]
    pieces = b"".join(
        _message(1, _message(1, text.encode()) + _key(2, 5) + struct.pack("<f", score) + _number(3, kind))
        for text, score, kind in zip(texts, scores, kinds, strict=True)
    )
    trainer = _number(3, _BPE) + _number(4, len(texts)) + _number(35, int(_BYTE in kinds))
    for kind, (id_field, piece_field) in _ROLE_FIELDS.items():
        number = unknown if kind == "unk" else roles.get(kind, -1)
        trainer += _number(id_field, number % (1 << 64))
        trainer += _message(piece_field, texts[number].encode()) if 0 <= number < len(texts) else b""
    normalizer = _message(1, b"identity") + _number(3, int(prefix)) + _number(4, 0) + _number(5, 1)
    return pieces + _message(2, trainer) + _message(3, normalizer)


def unknown_token(texts: Sequence[str], types: Sequence[TokenType], stated: int | None) -> int:
    """Find the token for what is unknown, of which a sentencepiece model has one."""
    if TokenType.UNKNOWN in types:
        return list(types).index(TokenType.UNKNOWN)
    return texts.index("<unk>") if "<unk>" in texts else stated or 0


def pieces_model(
    texts: Sequence[str], types: Sequence[TokenType], scores: Sequence[float], unk: int | None, *, prefix: bool
) -> dict[str, Any]:
    """Give normalizer, pre-tokenizer, decoder and model of a tokenizer.json."""
    vocab = {text: number for number, text in enumerate(texts) if types[number] is not TokenType.UNUSED}
    boundary = {"type": "Replace", "pattern": {"String": " "}, "content": WORD_BOUNDARY}
    before = [{"type": "Prepend", "prepend": WORD_BOUNDARY}] if prefix else []
    strip = [{"type": "Strip", "content": " ", "start": 1, "stop": 0}] if prefix else []
    space = {"type": "Replace", "pattern": {"String": WORD_BOUNDARY}, "content": " "}
    return {
        "normalizer": {"type": "Sequence", "normalizers": [*before, boundary]},
        "pre_tokenizer": None,
        "decoder": {"type": "Sequence", "decoders": [space, {"type": "ByteFallback"}, {"type": "Fuse"}, *strip]},
        "model": {
            "type": "BPE",
            "unk_token": texts[unknown_token(texts, types, unk)],
            "fuse_unk": True,
            "byte_fallback": TokenType.BYTE in types,
            "ignore_merges": False,
            "vocab": vocab,
            "merges": list(_merges(texts, types, scores)),
        },
    }


def _merges(texts: Sequence[str], types: Sequence[TokenType], scores: Sequence[float]) -> Iterator[list[str]]:
    """Yield the pairs that make a piece, best first: by its score, then as the vocabulary has it."""
    normal = {text: number for number, text in enumerate(texts) if types[number] is TokenType.NORMAL}
    for piece in sorted(normal, key=lambda text: (-scores[normal[text]], normal[text])):
        pairs = [(piece[:end], piece[end:]) for end in range(1, len(piece))]
        known = [pair for pair in pairs if pair[0] in normal and pair[1] in normal]
        yield from map(list, sorted(known, key=lambda pair: (normal[pair[0]], normal[pair[1]])))


def _key(field: int, wire_type: int) -> bytes:
    return _varint(field << 3 | wire_type)


def _number(field: int, value: int) -> bytes:
    return _key(field, 0) + _varint(value)


def _message(field: int, data: bytes) -> bytes:
    return _key(field, 2) + _varint(len(data)) + data


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:  # noqa: PLR2004 - seven bits a byte
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes((*encoded, value))
