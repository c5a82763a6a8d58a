"""YAML from people we do not know: plain values only, bounded, and without aliases, which can stand for any amount."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from convert.checkpoint.regular_file import file_nbytes, open_regular
from convert.errors import CheckpointError
from convert.shown import shown

if TYPE_CHECKING:
    from pathlib import Path

MAX_NBYTES: Final = 1 << 20  # LitGPT's configs have some 2 kB


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML mapping. Raises CheckpointError, naming the file, for anything else."""
    import yaml  # noqa: PLC0415 - only where such a file is

    with open_regular(path) as file:
        if (nbytes := file_nbytes(file)) > MAX_NBYTES:
            raise CheckpointError(f"{shown(path)} has {nbytes} bytes, at most {MAX_NBYTES} are read")
        data = file.read(MAX_NBYTES)
    try:
        if b"*" in data and any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(data)):
            raise CheckpointError(f"{shown(path)} has YAML aliases, wanted plain values")
        value = yaml.load(data, Loader=yaml.SafeLoader)
    except (yaml.YAMLError, ValueError, RecursionError, OverflowError) as error:
        raise CheckpointError(
            f"{shown(path)} is not YAML of plain values: {' '.join(str(error).split())[:200]}"
        ) from error
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise CheckpointError(f"{shown(path)} holds no mapping of names at its top")
    return value
