"""The families' metadata rows from right to left: of what a GGUF file says, the config of a class of transformers.

Rows that are sure speak first, the others where the config does not yet give what the file says. The proof is the way
there: what the made config gives is compared with the file, and each difference is named.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from gguf import GGUFValueType, Keys

from convert.architecture.config_keys import check_keys, keys_meant
from convert.architecture.hyperparameters import read_hyperparameters
from convert.architecture.metadata import Row, first_metadata_of, metadata_of
from convert.architecture.transformers_defaults import FIELDS
from convert.errors import ConvertError
from convert.shown import shown

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from convert.architecture.family import Family
    from convert.architecture.given import Given
    from convert.gguf_file import KeyValue

_WHERE: Final = "the config"
# Keys of configs that only say which tensors there are, and the end of a tensor's name that tells.
_SHOWN_BY_TENSORS: Final[Mapping[str, tuple[str, ...]]] = {
    "attention_bias": ("attn_q.bias", "attn_qkv.bias"),
    "attention_out_bias": ("attn_output.bias",),
    "lm_head_bias": ("output.bias",),
    "mlp_bias": ("ffn_up.bias",),
    "qk_layernorm": ("attn_q_norm.weight",),
    "qkv_bias": ("attn_q.bias",),
    "use_bias": ("attn_q.bias",),
    "use_qk_norm": ("attn_q_norm.weight",),
    "use_qkv_bias": ("attn_q.bias",),
}
_TOKEN_IDS: Final[Mapping[str, str]] = {
    "bos_token_id": Keys.Tokenizer.BOS_ID,
    "eos_token_id": Keys.Tokenizer.EOS_ID,
    "pad_token_id": Keys.Tokenizer.PAD_ID,
}


def config_of(family: Family, class_name: str, given: Given, *, tied: bool) -> dict[str, Any]:
    """Make the config of a class. given: the file. tied: the output matrix is the embeddings."""
    given = given.having(_basics(family, class_name, given, tied=tied))
    rows = _last_rows(family)
    for row in rows:
        if row.sure and row.back is not None:
            given = given.having(row.back(given))
    given = given.having(keys_meant(family.arch, given))
    for row in rows:
        if not row.sure and row.back is not None and not _says(row, given):
            given = given.having(row.back(given))
    return dict(given.config)


def differences(family: Family, config: Mapping[str, Any], given: Given) -> Iterator[str]:
    """Name what the config does not give as the file has it; nothing is lost where there is none."""
    try:
        h = read_hyperparameters(config, where=_WHERE)
        made = {**first_metadata_of(family, h), **metadata_of(family, h)}
        check_keys(family.arch, h)
    except ConvertError as error:
        yield error.message
        return
    if not h.is_accepted and given.model_type in FIELDS:
        yield "transformers does not take the config"
    stated = {key: value for key, value in given.values.items() if key.startswith(f"{given.arch}.")}
    stated.pop(Keys.LLM.POOLING_TYPE.format(arch=given.arch), None)  # which stands beside the config
    lists = {numbers.key.format(arch=given.arch) for numbers in family.numbers}
    for key in stated.keys() | {key for key in made if key.startswith(f"{given.arch}.")}:
        entry = made.get(key)
        if key not in lists and not (key in stated and entry is not None and _same(entry, stated[key])):
            has, gives = (shown(value) if found else "nothing" for found, value in _both(key, stated, entry))
            yield f"`{key}`: the file has {has}, its config gives {gives}"


def _both(key: str, stated: Mapping[str, Any], entry: KeyValue | None) -> tuple[tuple[bool, Any], tuple[bool, Any]]:
    return (key in stated, stated.get(key)), (entry is not None, entry and entry.value)


def _basics(family: Family, class_name: str, given: Given, *, tied: bool) -> dict[str, Any]:
    """Give what no metadata row says: the class, the vocabulary, tied matrices, and what the tensors show."""
    suffixes = {name.split(".", 2)[-1] if name.startswith("blk.") else name for name in given.tensors}
    shown_by_tensors = {
        key: any(name in suffixes for name in names)
        for key, names in _SHOWN_BY_TENSORS.items()
        if isinstance(given.defaults.get(key), bool)
    }
    embeddings = given.tensors.get("token_embd.weight")
    ids = {key: given.get(of) for key, of in _TOKEN_IDS.items() if of in given.values or given.defaults.get(key)}
    late = {f"{kind}_token_id" for kind, _ in family.tokenizer.always.ids}  # the family's rule says them itself
    return {
        "architectures": [class_name],
        "model_type": given.model_type,
        "tie_word_embeddings": tied,
        **({} if embeddings is None else {"vocab_size": embeddings.shape[0]}),
        **shown_by_tensors,
        **{key: number for key, number in ids.items() if key not in late},
    }


def _last_rows(family: Family) -> list[Row]:
    """Give the rows that count, a key's last, before rows without a key."""
    rows = (*family.metadata, *family.first)
    last = {row.key: row for row in rows if row.key is not None}
    return [row for row in rows if row.key is None or last[row.key] is row]


def _says(row: Row, given: Given) -> bool:
    """Whether the config made so far gives a row's values as the file has them."""
    try:
        h = read_hyperparameters(given.config, where=_WHERE)
        made = {key.format(arch=given.arch): (key, value, kind) for key, value, kind in row.values(h)}
    except ConvertError:
        return False
    keys = {*made, *([row.key.format(arch=given.arch)] if row.key else [])}
    return all(key in made and key in given.values and _alike(*made[key][1:], given.values[key]) for key in keys) or (
        not made and not any(key in given.values for key in keys)
    )


def _same(entry: KeyValue, value: object) -> bool:
    return _alike(entry.value, entry.type, value)


def _alike(made: Any, kind: GGUFValueType, value: Any) -> bool:  # noqa: ANN401 - metadata
    if kind is GGUFValueType.FLOAT32 and isinstance(value, (int, float)):
        return bool(np.float32(made) == np.float32(value)) or (math.isnan(made) and math.isnan(value))
    return bool(tuple(made) == tuple(value) if isinstance(made, (list, tuple)) else made == value)
