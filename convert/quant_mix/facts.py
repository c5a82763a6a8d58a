"""What a choice depends on beyond the tensor: a model's architecture, layers, heads and experts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from gguf import Keys

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

# LLM_TYPE_70B in src/models/*.cpp @ 0c1e570: the number of layers that makes a model one. Of Llamas, see below.
_LAYERS_OF_70B: Final = {"llama": 80, "llama-embed": 80, "deci": 80, "qwen2": 80, "olmo": 80, "jais2": 68}
_EIGHT: Final = 8
_NEXTN: Final = "{arch}.nextn_predict_layers"


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """A model's numbers.

    n_layers: blocks, those that predict further tokens (n_nextn) included. n_heads, n_kv_heads: of the first layer.
    """

    arch: str
    n_layers: int = 0
    n_heads: int = 0
    n_kv_heads: int = 0
    n_experts: int = 0
    n_nextn: int = 0

    @classmethod
    def of(cls, values: Mapping[str, Any], overrides: Mapping[str, Any]) -> ModelFacts:
        """Gather the facts from metadata, as llama.cpp reads it.

        overrides: what the user gives instead; of heads, only where the metadata has one number for all layers.
        Source: llama_model_base::load_hparams and llama_model_loader::get_key_or_arr @ 0c1e570.
        """
        everything = {**values, **overrides}
        arch = str(everything.get(Keys.General.ARCHITECTURE, ""))

        def number(key: str) -> int:
            value = everything.get(key.format(arch=arch), 0)
            return value if isinstance(value, int) else 0

        def heads(key: str, otherwise: int) -> int:
            stored = values.get(key.format(arch=arch))
            if isinstance(stored, tuple):
                return int(stored[0]) if stored else otherwise
            return otherwise if stored is None else number(key)

        n_heads = heads(Keys.Attention.HEAD_COUNT, 0)
        return cls(
            arch,
            n_layers=_all_layers(arch, number),
            n_heads=n_heads,
            n_kv_heads=heads(Keys.Attention.HEAD_COUNT_KV, n_heads),
            n_experts=number(Keys.LLM.EXPERT_COUNT),
            n_nextn=number(_NEXTN),
        )

    @property
    def heads_to_a_kv_head(self) -> int:
        """How many query heads share keys and values; 0 where there are none to share."""
        return self.n_heads // self.n_kv_heads if self.n_kv_heads else 0

    @property
    def is_70b(self) -> bool:
        """Whether llama.cpp takes it for a model of 70 billion parameters."""
        if self.n_layers - self.n_nextn != _LAYERS_OF_70B.get(self.arch):
            return False
        return not self.arch.startswith("llama") or (self.n_experts != _EIGHT and self.n_heads != self.n_kv_heads)


def _all_layers(arch: str, number: Callable[[str], int]) -> int:
    """Count the layers that llama.cpp makes of a model's blocks: src/models/nanbeige.cpp, granite-switch.cpp."""
    n_blocks = number(Keys.LLM.BLOCK_COUNT)
    if arch == "nanbeige":
        n_loops = number("{arch}.num_loops") or 1
        return (n_blocks - number(_NEXTN)) * n_loops if n_loops > 1 else n_blocks
    return n_blocks - number(_NEXTN) + 1 if arch == "graniteswitch" else n_blocks
