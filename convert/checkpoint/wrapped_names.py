"""Names as the model has them: without what training wrappers put in front of, or into, them.

    module.                     DataParallel, DistributedDataParallel: in front of every name
    model.                      a LightningModule with `self.model`: in front of every name, `model.model.…` among them
    _orig_mod.                  torch.compile: in front, or before the layer that was compiled
    _fsdp_wrapped_module.       FullyShardedDataParallel: in front and inside
    _checkpoint_wrapped_module. activation checkpointing: inside

The reference knows none of them; it maps no tensor of such a checkpoint.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Final, TypeVar

from convert.errors import CheckpointError
from convert.shown import shown

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from convert.checkpoint.saved_pieces import SavedTensor
    from convert.checkpoint.source import TensorSource

T = TypeVar("T", "TensorSource", "SavedTensor")
_ANYWHERE: Final = re.compile(r"(?:^|(?<=\.))(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")


def unwrap_names(sources: Mapping[str, T]) -> tuple[dict[str, T], tuple[str, ...]]:
    """Remove wrappers' prefixes from names; the order stays.

    Returns the tensors by their plain names, and a note a prefix.
    Raises CheckpointError if two names become one.
    """
    removed = dict.fromkeys(match.group() for name in sources for match in _ANYWHERE.finditer(name))
    names = {name: _ANYWHERE.sub("", name) for name in sources}
    while prefix := _common_wrapper(names.values()):
        names = {name: plain.removeprefix(prefix) for name, plain in names.items()}
        removed[prefix] = None
    plain: dict[str, T] = {}
    for name, source in sources.items():
        if names[name] in plain:
            first = plain[names[name]].name
            raise CheckpointError(f"tensors {shown(first)} and {shown(name)} are both {shown(names[name])}")
        plain[names[name]] = source
    renamed = {name: replace(source, name=name) for name, source in plain.items()} if removed else plain
    return renamed, tuple(f"removed {shown(prefix)} from tensor names" for prefix in removed)


def _common_wrapper(names: Iterable[str]) -> str | None:
    names = list(names)
    if names and all(name.startswith("module.") for name in names):
        return "module."
    # A plain model's names may all begin with `model.` too; none begins with it twice.
    if all(name.startswith("model.") for name in names) and any(name.startswith("model.model.") for name in names):
        return "model."
    return None
