"""llama.cpp's definitions over a model that is elsewhere: they see what they compute with; the rest streams."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from front_end_checkpoints import write_front_end_checkpoint
from remote_double import lead_here, remote_double

from convert.errors import UnsupportedError
from convert.llama_cpp.front_end import held
from convert.llama_cpp.front_end.computed import Computed
from convert.llama_cpp.front_end.gguf_model import model_through
from convert.llama_cpp.front_end.request import Definition, Wanted
from convert.llama_cpp.pin import COMMIT
from convert.model import ModelRequest
from convert.plan import plan
from convert.quant_mix import FILE_TYPES
from convert.remote import located
from convert.stream import carry_out

if TYPE_CHECKING:
    from convert.model import GGUFModel

NAME = "MambaForCausalLM"  # it computes with A_log and the convolutions


def _through(directory: Path, reference_source: Path) -> GGUFModel:
    return model_through(Wanted(ModelRequest(directory), Definition(reference_source, COMMIT))).model


def test_the_files_are_those_of_the_model_here(
    reference_source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_front_end_checkpoint(NAME, tmp_path)
    with remote_double({f"me/{NAME}": tmp_path / NAME}) as hub:
        lead_here(hub, monkeypatch, tmp_path / "home")
        elsewhere = Path(located(f"hf://me/{NAME}"))
        models = {"local": _through(tmp_path / NAME, reference_source), "remote": _through(elsewhere, reference_source)}
        assert any(isinstance(tensor, Computed) for _, tensor in models["remote"].tensors)
        for out, model in models.items():
            carry_out(plan(model, {FILE_TYPES["F16"]: tmp_path / f"{out}.gguf"}))
        assert (tmp_path / "remote.gguf").read_bytes() == (tmp_path / "local.gguf").read_bytes()
        monkeypatch.setattr(held, "_MAX_NBYTES", 0)
        with pytest.raises(UnsupportedError, match=r"computes with the values of `.*`, where there is no network"):
            carry_out(plan(_through(elsewhere, reference_source), {FILE_TYPES["F16"]: tmp_path / "none.gguf"}))
        assert not (tmp_path / "none.gguf").exists()
