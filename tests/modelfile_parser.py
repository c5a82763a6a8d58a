"""Ollama's rules for a Modelfile, told again rune by rune: parser/parser.go, ParseFile and unquote @ fb30760."""

from __future__ import annotations

from typing import Final

COMMANDS: Final = (
    "from", "license", "template", "system", "adapter", "draft", "renderer", "parser", "parameter", "message",
    "requires",
)  # fmt: skip
FLOATS: Final = (
    "temperature",
    "top_p",
    "min_p",
    "typical_p",
    "repeat_penalty",
    "presence_penalty",
    "frequency_penalty",
)
INTEGERS: Final = ("top_k", "seed", "num_keep", "num_predict", "num_ctx", "repeat_last_n")


def parse_modelfile(text: str) -> list[tuple[str, str]]:
    """Give the commands and their values: a parameter by its own name. Raises ValueError for what Ollama refuses."""
    commands: list[tuple[str, str]] = []
    position = 0
    while position < len(text):
        rune = text[position]
        if rune in " \t\r\n":
            position += 1
        elif rune == "#":
            position = _after_line(text, position)
        else:
            name, position = _word(text, position)
            if name.lower() not in COMMANDS:
                raise ValueError(f"no command: {name}")
            if name.lower() == "parameter":
                name, position = _word(text, position)
            value, position = _value(text, position)
            commands.append((name.lower(), value))
    if not any(name == "from" for name, _ in commands):
        raise ValueError("no FROM line")
    return commands


def parameters_of(commands: list[tuple[str, str]]) -> dict[str, object]:
    """Read parameters as api.FormatParams does. Raises ValueError for an unknown one, or a wrong number."""
    read: dict[str, object] = {}
    for name, value in commands:
        if name in COMMANDS:
            continue
        if name == "stop":
            read[name] = [*read.get(name, []), value]  # type: ignore[misc]
        elif name in (*FLOATS, *INTEGERS):
            read[name] = float(value) if name in FLOATS else int(value)
        else:
            raise ValueError(f"unknown parameter {name}")
    return read


def _word(text: str, position: int) -> tuple[str, int]:
    end = position
    while end < len(text) and ((text[end].isascii() and text[end].isalnum()) or text[end] == "_"):
        end += 1
    if end == len(text) or text[end] not in " \t":
        raise ValueError(f"no space after {text[position:end]}")
    return text[position:end], end + 1


def _after_line(text: str, position: int) -> int:
    end = text.find("\n", position)
    return len(text) if end < 0 else end + 1


def _value(text: str, position: int) -> tuple[str, int]:
    """Read up to the first line break at which no quotation is open; what cannot be printed is left out before it."""
    buffer = ""
    while position < len(text):
        rune = text[position]
        if rune in "\r\n" and (value := _unquoted(buffer.strip(" \t\r\n"))) is not None:
            return value, position
        buffer += rune if rune.isprintable() or rune in " \t\r\n" else ""
        position += 1
    if (value := _unquoted(buffer.strip(" \t\r\n"))) is None:
        raise ValueError("a quotation is open at the end")
    return value, position


def _unquoted(text: str) -> str | None:
    if text.startswith('"""'):
        return text[3:-3] if len(text) >= 6 and text.endswith('"""') else None
    if text.startswith('"'):
        return text[1:-1] if len(text) >= 2 and text.endswith('"') else None
    return text
