"""What may be asked of a quantized file beyond its type: llama-quantize's options, as one value."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from gguf import GGMLQuantizationType, GGUFValueType

from convert.errors import UsageError
from convert.gguf_file import KeyValue
from convert.importance import Importance, read_importance
from convert.quant_mix.patterns import compile_pattern

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

_Type = GGMLQuantizationType

# ggml.c, ggml_quantize_chunk @ 0c1e570: what a tensor can be made.
_CANNOT_BE_MADE: Final = ("Q8_1", "Q8_K", "I8", "I16", "I32", "I64", "F64")
TENSOR_TYPES: Final = {kind.name: kind for kind in _Type.__members__.values() if kind.name not in _CANNOT_BE_MADE}
_LONGEST_KEY: Final = 127  # llama_model_kv_override's key and string, bytes
_UINT32: Final = 1 << 32
_RESERVED: Final = "general.alignment"  # Parity: llama-quantize writes the number, and lays the file out by 32


class Lossless(Enum):
    """Whether packed tensors keep their integers and scales where a type's blocks can hold them; or all must."""

    OFF = "off"
    WHERE_POSSIBLE = "possible"
    STRICT = "strict"


@dataclass(frozen=True, slots=True)
class TensorTypeRule:
    """The type of all tensors whose name a pattern, as C++ reads it, is found in."""

    pattern: str
    type: GGMLQuantizationType


@dataclass(frozen=True, slots=True)
class QuantizeOptions:
    """What llama-quantize can be asked for; by default nothing.

    pure: no mixture, all of the file's type. leave_output: the output matrix keeps its type. output_type,
    embedding_type: theirs. tensor_types: by name, the first that fits. prune_layers: to leave out, from 0 on.
    overrides: metadata to set, which the rules see too. allow_requantize: tensors that are quantized already may be
    decoded and quantized again. importance: how much each column of a weight counts. keep_split: the files are in parts
    where the source, a GGUF file, is. lossless: the one that is not llama-quantize's.
    """

    pure: bool = False
    leave_output: bool = False
    output_type: GGMLQuantizationType | None = None
    embedding_type: GGMLQuantizationType | None = None
    tensor_types: tuple[TensorTypeRule, ...] = ()
    prune_layers: tuple[int, ...] = ()
    overrides: tuple[KeyValue, ...] = ()
    allow_requantize: bool = False
    importance: Importance | None = None
    lossless: Lossless = Lossless.OFF
    keep_split: bool = False

    @property
    def has_importance(self) -> bool:
        """Whether there is importance for anything at all."""
        return self.importance is not None and self.importance.n_entries > 0

    @property
    def changes_content(self) -> bool:
        """Whether a float file, too, has other tensors or metadata than without."""
        return bool(self.prune_layers or self.overrides)

    def type_for(self, name: str) -> TensorTypeRule | None:
        """Find the first rule by name for a tensor."""
        return next((rule for rule in self.tensor_types if compile_pattern(rule.pattern).search(name)), None)

    @property
    def overridden(self) -> dict[str, Any]:
        """Overrides by key, as the rules see them: Parity: the first of a key, while the file holds the last."""
        return {entry.key: entry.value for entry in reversed(self.overrides)}


NO_OPTIONS: Final = QuantizeOptions()


def parse_tensor_type(name: str) -> GGMLQuantizationType:
    """Read a tensor's type such as `q8_0`, in any case.

    Raises UsageError that lists them.
    """
    try:
        return TENSOR_TYPES[name.strip().upper()]
    except KeyError:
        known = ", ".join(kind.lower() for kind in TENSOR_TYPES)
        raise UsageError(f"unknown tensor type `{name}`", hint=f"known are {known}") from None


def parse_tensor_rule(text: str) -> TensorTypeRule:
    """Read `PATTERN=TYPE`, such as `attn_v=q8_0`: at the first `=`, as llama-quantize does."""
    pattern, _, kind = text.partition("=")
    if not pattern or not kind:
        raise UsageError(f"`{text}` is not PATTERN=TYPE")
    compile_pattern(pattern)
    return TensorTypeRule(pattern, parse_tensor_type(kind))


def read_tensor_rules(path: Path) -> tuple[TensorTypeRule, ...]:
    """Read a file of `PATTERN=TYPE`, separated by white space."""
    try:
        return tuple(map(parse_tensor_rule, path.read_text(encoding="utf-8").split()))
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"`{path}` cannot be read: {error}") from None


def parse_layers(text: str) -> tuple[int, ...]:
    """Read numbers of layers such as `3,4,7`."""
    layers = [layer.strip() for layer in text.split(",")]
    if not all(re.fullmatch(r"\d+", layer) for layer in layers):
        raise UsageError(f"`{text}` is not a list of layers, such as 3,4,7")
    return tuple(sorted(set(map(int, layers))))


def parse_override(text: str) -> KeyValue:
    """Read `KEY=TYPE:VALUE`, where TYPE is int, float, bool or str.

    Parity: an int becomes the uint32 of its absolute value. Source: common/common.cpp, string_parse_kv_override, and
    llama_model_quantize_impl @ 0c1e570.
    """
    key, _, typed = text.partition("=")
    kind, separator, value = typed.partition(":")
    if not key or not separator or kind not in _OVERRIDES or len(key.encode()) > _LONGEST_KEY:
        raise UsageError(f"`{text}` is not KEY=TYPE:VALUE, with int, float, bool or str for TYPE")
    if key == _RESERVED:
        raise UsageError(f"`{_RESERVED}` cannot be overridden: the file would not be what it says")
    value_type, parse = _OVERRIDES[kind]
    try:
        return KeyValue(key, parse(value), value_type)
    except ValueError:
        raise UsageError(f"`{value}` in `{text}` is not {kind}") from None


def _integer(text: str) -> int:
    value = abs(int(text))
    if value >= _UINT32:
        raise ValueError
    return value


def _boolean(text: str) -> bool:
    return bool(("false", "true").index(text))


def _string(text: str) -> str:
    if len(text.encode()) > _LONGEST_KEY:
        raise ValueError
    return text


_OVERRIDES: Final[Mapping[str, tuple[GGUFValueType, Callable[[str], Any]]]] = {
    "int": (GGUFValueType.UINT32, _integer),
    "float": (GGUFValueType.FLOAT32, float),
    "bool": (GGUFValueType.BOOL, _boolean),
    "str": (GGUFValueType.STRING, _string),
}


def quantize_options(  # noqa: PLR0913 - llama-quantize's
    *,
    pure: bool = False,
    leave_output_tensor: bool = False,
    output_tensor_type: str | None = None,
    token_embedding_type: str | None = None,
    tensor_type: Iterable[str] = (),
    tensor_type_file: str | Path | None = None,
    prune_layers: str | None = None,
    override_kv: Iterable[str] = (),
    allow_requantize: bool = False,
    imatrix: str | Path | None = None,
    imatrix_name: str | None = None,
    include_weights: Iterable[str] = (),
    exclude_weights: Iterable[str] = (),
    lossless: str | None = None,
    keep_split: bool = False,
) -> QuantizeOptions:
    """Read options in llama-quantize's words and spelling; files are read. lossless: `possible` or `strict`.

    imatrix_name: what files call the importance matrix that they were made with; by default its path, as given.

    Raises UsageError, or CheckpointError for an importance matrix that is broken.
    """
    rules = tuple(map(parse_tensor_rule, tensor_type))
    importance = None
    if imatrix is not None:
        importance = read_importance(imatrix, include=tuple(include_weights), exclude=tuple(exclude_weights))
        importance = importance if imatrix_name is None else replace(importance, file=imatrix_name)
    elif include_weights or exclude_weights or imatrix_name is not None:
        raise UsageError("weights or a name of an importance matrix are given, and none is given itself")
    return QuantizeOptions(
        pure=pure,
        leave_output=leave_output_tensor,
        output_type=None if output_tensor_type is None else parse_tensor_type(output_tensor_type),
        embedding_type=None if token_embedding_type is None else parse_tensor_type(token_embedding_type),
        tensor_types=rules + (() if tensor_type_file is None else read_tensor_rules(Path(tensor_type_file))),
        prune_layers=() if prune_layers is None else parse_layers(prune_layers),
        overrides=tuple(map(parse_override, override_kv)),
        allow_requantize=allow_requantize,
        importance=importance,
        lossless=Lossless.OFF if lossless is None else _lossless(lossless),
        keep_split=keep_split,
    )


def _lossless(asked: str) -> Lossless:
    try:
        return Lossless(asked)
    except ValueError:
        raise UsageError(f"lossless is `{asked}`, wanted {', '.join(each.value for each in Lossless)}") from None
