"""A base's tensors by the names that an adapter calls them.

model.layers.0.self_attn.q_proj     model.layers.0.self_attn.q_proj.weight, or without `model.`, or with it
model.layers.0.mlp.gate             model.layers.0.block_sparse_moe.gate.weight: Mixtral's name in files
transformer.h.0.attn.c_attn         h.0.attn.c_attn.weight: GPT-2 and BLOOM as they were published
model.language_model.layers.0…      language_model.model.layers.0…, or model.layers.0…: models that see, in older files
lm_head                             model.embed_tokens.weight, where the file has no lm_head: the two are tied

An adapter's names are those of transformers' modules, which are not always the file's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from convert.checkpoint import Tensor

HEAD: Final = "lm_head.weight"
_LANGUAGE: Final = "model.language_model."
_EMBEDDING: Final = "embed_tokens.weight"


class BaseNames:
    """Looks a base's tensors up."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self.tensors: Final = tensors
        self.embedding: Final = next((name for name in tensors if _is(name, _EMBEDDING)), None)
        self.head: Final = next((name for name in tensors if _is(name, HEAD)), None)

    @property
    def is_tied(self) -> bool:
        """Whether the output matrix is the embedding: the file has only that one."""
        return self.head is None and self.embedding is not None

    def find(self, name: str) -> str | None:
        """Return the file's name for a tensor; of a tied output matrix, the embedding's. None where there is none."""
        return next((candidate for candidate in self._candidates(name) if candidate in self.tensors), None)

    def find_untied(self, name: str) -> str | None:
        """As `find`, but a tied output matrix is not there."""
        return None if self.is_tied and _is(name, HEAD) else self.find(name)

    def _candidates(self, name: str) -> Iterator[str]:
        for spelling in (name, name.replace(".mlp.gate.", ".block_sparse_moe.gate.")):
            yield spelling
            yield spelling.removeprefix("model.")
            yield f"model.{spelling}"
            yield spelling.removeprefix("transformer.")
        if name.startswith(_LANGUAGE):
            yield f"language_model.model.{name.removeprefix(_LANGUAGE)}"
            yield f"model.{name.removeprefix(_LANGUAGE)}"
        if name == HEAD:
            yield f"language_model.{HEAD}"
        if self.is_tied and _is(name, HEAD) and self.embedding is not None:
            yield self.embedding


def is_head(name: str) -> bool:
    """Whether a tensor is the output matrix."""
    return _is(name, HEAD)


def is_embedding(name: str) -> bool:
    """Whether a tensor is the input embeddings."""
    return _is(name, _EMBEDDING)


def _is(name: str, last: str) -> bool:
    return name == last or name.endswith(f".{last}")
