"""What tests of other programs' layouts share."""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING

import pytest

from convert.conversion import convert_all, plan_one
from convert.errors import ConvertError
from convert.plan import OutputRequest

if TYPE_CHECKING:
    from pathlib import Path

    from convert.model import ModelRequest


def hashes(model: Path | ModelRequest, out: Path, types: str = "f16,q4_0,q6_k") -> dict[str, str]:
    """Convert a checkpoint; the files' sha256, by name."""
    convert_all(model, OutputRequest(out, types))
    return {path.name: sha256(path.read_bytes()).hexdigest() for path in sorted(out.iterdir())}


def refused(model: Path | ModelRequest, out: Path) -> ConvertError:
    """Return the error with which a checkpoint is refused, before there is any output."""
    with pytest.raises(ConvertError) as caught:
        plan_one(model, out)
    assert not out.exists()
    return caught.value
