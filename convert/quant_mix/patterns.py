r"""C++'s regular expressions in Python's words: what the pattern of a tensor's type is matched with.

llama-quantize lowers the pattern's letters, so that `\D` becomes `\d`, and asks `std::regex_search` (ECMAScript)
whether any part of a tensor's name matches. The two languages differ little; what C++ has no meaning for, or Python
another, is refused.
Source: tools/quantize/quantize.cpp, parse_tensor_type @ 0c1e570; ECMA-262, 15.10; libstdc++, regex_scanner.tcc.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

from convert.errors import UsageError

_SCANNED: Final = re.compile(
    r"\\(?P<escaped>.)|(?P<set>\[\^?(?:\\.|\[:\w+:\]|[^\]\\])*\])|(?P<group>\(\?.?)|(?P<plain>.)"
)
_KEPT_ESCAPES: Final = frozenset("bdswfnrtv123456789")
_CLASSES: Final = {
    "[:alpha:]": "a-zA-Z", "[:digit:]": "0-9", "[:alnum:]": "a-zA-Z0-9", "[:lower:]": "a-z", "[:upper:]": "A-Z",
    "[:xdigit:]": "0-9a-fA-F", "[:space:]": r"\s", "[:punct:]": r"!-/:-@\[-`{-~", "[:w:]": r"\w", "[:d:]": r"\d",
    "[:s:]": r"\s",
}  # fmt: skip
_LOWER: Final = str.maketrans({chr(code): chr(code + 32) for code in range(ord("A"), ord("Z") + 1)})


@lru_cache(maxsize=256)
def compile_pattern(pattern: str) -> re.Pattern[str]:
    """Compile a pattern as llama-quantize reads it; `search` in a name is its answer.

    Raises UsageError for one that C++ would not take, or that means something else there.
    """
    lowered = pattern.translate(_LOWER)
    try:
        return re.compile("".join(_in_python(match) for match in _SCANNED.finditer(lowered)), re.ASCII)
    except (re.error, ValueError) as error:
        raise UsageError(f"`{pattern}` is not a regular expression that C++ knows: {error}") from None


def _in_python(match: re.Match[str]) -> str:
    found = match[0]
    if match["escaped"]:
        if match["escaped"] in "cux0":
            raise ValueError(f"{found} is not supported here")
        return found if match["escaped"] in _KEPT_ESCAPES else re.escape(match["escaped"])
    if match["group"] and found not in ("(?:", "(?=", "(?!"):
        raise ValueError(f"it has no {found}")
    return _set_in_python(found) if match["set"] else found


def _set_in_python(found: str) -> str:
    for name, characters in _CLASSES.items():
        found = found.replace(name, characters)
    if "[:" in found or "[=" in found or "[." in found:
        raise ValueError(f"{found} is not supported here")
    return found
