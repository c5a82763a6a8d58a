"""The alphabet of byte-level BPE: a printable character for each byte (openai/gpt-2, bytes_to_unicode)."""

from __future__ import annotations

from typing import Final


def _byte_of_char() -> dict[str, int]:
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    table = {chr(byte): byte for byte in printable}
    others = [byte for byte in range(0x100) if byte not in table.values()]
    return table | {chr(0x100 + place): byte for place, byte in enumerate(others)}


BYTE_OF_CHAR: Final = _byte_of_char()
CHAR_OF_BYTE: Final = {byte: char for char, byte in BYTE_OF_CHAR.items()}
