"""General metadata: name, author, license, base models, sampling defaults.

The `gguf` package owns the heuristics (directory name, model card, config, generation config); this
room guards them against hostile files and adds what the reference has and the package does not yet.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import yaml
from gguf import Metadata, size_label

from convert.checkpoint.json_file import read_json
from convert.errors import CheckpointError
from convert.gguf_file import KeyValue, encode_key_value

if TYPE_CHECKING:
    from pathlib import Path

    from gguf import GGUFWriter

_MAX_CARD_NBYTES: Final = 16 << 20


def write_authorship(writer: GGUFWriter, directory: Path) -> None:
    """Add the `general.*` entries that describe the model, in the reference's order.

    The writer must know the tensors: the size label counts their parameters.
    Raises CheckpointError if the model card, or a value taken from it, cannot be used.
    """
    _check_card(directory / "README.md")
    counts = writer.get_total_parameter_count()
    try:
        metadata = Metadata.load(None, directory, None, counts[0])
        metadata.sampling_penalty_repeat = _repetition_penalty(directory, metadata.sampling_penalty_repeat)
        if metadata.name is None:
            metadata.name = directory.name
        if metadata.size_label is None and counts[0] > 0:
            metadata.size_label = size_label(*counts)
        metadata.set_gguf_meta_model(writer)
        _check_encodable(writer)
    except (yaml.YAMLError, AttributeError, KeyError, RecursionError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"the model card or generation_config.json of `{directory}` cannot be read: {error}",
            hint="mend the YAML between the `---` lines at the top of README.md, or move the file away",
        ) from error


def _check_card(path: Path) -> None:
    if path.is_file() and path.stat().st_size > _MAX_CARD_NBYTES:
        raise CheckpointError(f"`{path}` has {path.stat().st_size} bytes; a model card has at most {_MAX_CARD_NBYTES}")


def _repetition_penalty(directory: Path, penalty: float | None) -> float | None:
    # gguf 0.19 knows only `penalty_repeat`; the reference also takes transformers' own spelling.
    path = directory / "generation_config.json"
    if penalty is not None or not path.is_file():
        return penalty
    config: Any = read_json(path)
    return config.get("repetition_penalty") if isinstance(config, dict) else None


def _check_encodable(writer: GGUFWriter) -> None:
    """Encode now, inside the guard: a card can hold values that GGUF cannot."""
    for key, value in writer.kv_data[0].items():
        encode_key_value(KeyValue(key, value.value, value.type, value.sub_type))
