"""General metadata: name, author, license, base models, sampling defaults.

The `gguf` package owns the heuristics (directory name, model card, config, generation config); this
room guards them against hostile files and adds what the reference has and the package does not yet.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

import yaml
from gguf import Metadata, size_label

from convert.errors import CheckpointError
from convert.gguf_file import KeyValue, encode_key_value

if TYPE_CHECKING:
    from pathlib import Path

    from gguf import GGUFWriter

_MAX_FILE_NBYTES: Final = 16 << 20
_MAX_FRONT_MATTER: Final = 256 << 10  # characters; YAML is parsed in Python
_YAML_LOADER: Final = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def write_authorship(writer: GGUFWriter, directory: Path) -> None:
    """Add the `general.*` entries that describe the model, in the reference's order.

    The writer must know the tensors: the size label counts their parameters.
    Raises CheckpointError if the model card, or a value taken from it, cannot be used.
    """
    counts = writer.get_total_parameter_count()
    try:
        for name in ("README.md", "generation_config.json"):
            _check_size(directory / name)
        _check_front_matter(directory / "README.md")
        metadata = Metadata.load(None, directory, None, counts[0])
        metadata.sampling_penalty_repeat = _repetition_penalty(directory)
        if metadata.name is None:
            metadata.name = directory.name
        if metadata.size_label is None and counts[0] > 0:
            metadata.size_label = size_label(*counts)
        metadata.set_gguf_meta_model(writer)
        _check_encodable(writer)
    except _UNUSABLE as error:
        raise CheckpointError(
            f"the model card or generation_config.json of `{directory}` cannot be used: {_one_line(error)}",
            hint="mend the YAML between the `---` lines at the top of README.md, or the sampling numbers in "
            "generation_config.json; or move the file away",
        ) from error


# What hostile or careless values make of the package's heuristics and of the header's packing.
_UNUSABLE: Final = (
    yaml.YAMLError, ArithmeticError, AttributeError, LookupError, OSError, RecursionError, TypeError, ValueError,
    struct.error,
)  # fmt: skip


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def _check_size(path: Path) -> None:
    if path.is_file() and path.stat().st_size > _MAX_FILE_NBYTES:
        raise ValueError(f"`{path.name}` has {path.stat().st_size} bytes, at most {_MAX_FILE_NBYTES} make sense")


def _check_front_matter(path: Path) -> None:
    """Refuse what would take the YAML parser, or what reads its result, unbounded time: length and aliases."""
    if not path.is_file():
        return
    lines = path.read_text(encoding="utf-8").splitlines()
    if not lines or lines[0] != "---":
        return
    end = lines.index("---", 1) if "---" in lines[1:] else len(lines)
    front = "\n".join(lines[1:end])
    if len(front) > _MAX_FRONT_MATTER:
        raise ValueError(f"the front matter has {len(front)} characters, at most {_MAX_FRONT_MATTER} make sense")
    if "*" in front and any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(front, Loader=_YAML_LOADER)):
        raise ValueError("the front matter uses YAML aliases")


def _repetition_penalty(directory: Path) -> float | None:
    # gguf 0.19 knows only `penalty_repeat`; the reference also takes transformers' own spelling.
    config = Metadata.load_generation_config(directory) or {}
    penalty: float | None = config.get("penalty_repeat", config.get("repetition_penalty"))
    return penalty


def _check_encodable(writer: GGUFWriter) -> None:
    """Encode now, inside the guard: a card can hold values that GGUF cannot."""
    for key, value in writer.kv_data[0].items():
        encode_key_value(KeyValue(key, value.value, value.type, value.sub_type))
