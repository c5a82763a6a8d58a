"""What a GGUF file says of a model, and the config made of it so far: what a row that is read backwards is given."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from gguf import Keys

from convert.architecture.transformers_defaults import ALIASES, FIELDS

if TYPE_CHECKING:
    from convert.checkpoint import Tensor


@dataclass(frozen=True, slots=True)
class Given:
    """A file and a class of transformers.

    values: the file's metadata; arch: its architecture, as keys have it. tensors: by name in GGUF. numbers: reads a
    small one. model_type: of the class. config: what is known of its config so far.
    """

    values: Mapping[str, Any]
    arch: str
    tensors: Mapping[str, Tensor]
    numbers: Callable[[str], tuple[float, ...]]
    model_type: str
    config: Mapping[str, Any]

    def get(self, key: str, default: Any = None) -> Any:  # noqa: ANN401 - metadata
        """Give what the file says under a key with `{arch}` in it; a float as the shortest decimal that is the same."""
        value = self.values.get(key.format(arch=self.arch), default)
        return shortest(value) if isinstance(value, float) else value

    @property
    def defaults(self) -> Mapping[str, Any]:
        """What the class fills in, by key."""
        return {key: default for key, (default, _) in self._fields.items()}

    @property
    def _fields(self) -> Mapping[str, tuple[Any, str]]:
        """The class's keys; of one that transformers does not know Llama's, whose spellings most others share."""
        return FIELDS.get(self.model_type, FIELDS["llama"])

    def accepts_null(self, key: str) -> bool:
        """Whether the class takes null for a key."""
        return "None" in self._fields.get(key, (None, ""))[1].split(" | ")

    def spelled(self, *aliases: str) -> str:
        """Choose the spelling that the class has; the first, where it has none."""
        known = self._fields
        of_class = ALIASES.get(self.model_type, {})
        own = next((name for name in aliases if name in known), None)
        return own or next((of_class[name] for name in aliases if name in of_class), aliases[0])

    def said(self, *aliases: str) -> Any:  # noqa: ANN401 - JSON
        """Give what the config says so far, or the class's default."""
        name = self.spelled(*aliases)
        return self.config.get(name, self.defaults.get(name))

    def is_early(self, key: str) -> bool:
        """Whether a key stands among those that all families have, which come before the file's type."""
        keys = list(self.values)
        return (name := key.format(arch=self.arch)) in keys and keys.index(name) < keys.index(Keys.General.FILE_TYPE)

    def having(self, config: Mapping[str, Any]) -> Given:
        """Give the same with more in the config."""
        return replace(self, config={**self.config, **config})


Back = Callable[[Given], Mapping[str, Any]]


def under(key: str, *aliases: str) -> Back:
    """Make what reads a key's value as a config's; without it null, if the class would fill in something else."""

    def back(given: Given) -> Mapping[str, Any]:
        name, value = given.spelled(*aliases), given.get(key)
        if value is None:
            return {} if given.defaults.get(name) is None or not given.accepts_null(name) else {name: None}
        return {name: value}

    return back


def shortest(value: float) -> float:
    """Give the number with the fewest digits that is the same in float32."""
    return float(str(np.float32(value)))
