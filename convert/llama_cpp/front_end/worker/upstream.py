"""Upstream's way from a directory to a full writer, with what is replaced in its package at run time.

    conversion.base.ModelBase.index_tensors          our reader's tensors, through the class's own `filter_tensors`
    gguf.GGUFWriter.write_… and close                kept back: the writer then holds the whole file, lazily
    gguf.quants.quantize                             the same, and the values that it was given are remembered
    conversion.base.TextModel.get_vocab_base_pre     asks our table where upstream does not know

Source: convert_hf_to_gguf.py, main; conversion/base.py, ModelBase @ 0c1e570.
"""

from __future__ import annotations

import contextlib
import inspect
import json
import re
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from convert.llama_cpp.front_end.request import Part
from convert.llama_cpp.front_end.worker.source_tensor import Loaded, SourceTensor
from convert.tokenizer.fast_tokenizer import read_fast_tokenizer
from convert.tokenizer.files import TokenizerFiles
from convert.tokenizer.pre_tokenizer import name_pre_tokenizer

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from convert.llama_cpp.front_end.request import Conversion

_FILE_TYPES: Final = {"F32": "ALL_F32", "F16": "MOSTLY_F16", "BF16": "MOSTLY_BF16", "Q8_0": "MOSTLY_Q8_0"}
_MTP: Final = re.compile(r"(^|\.)mtp\.")
_NO_BPE: Final = "default"  # llama.cpp splits by the name for BPE alone: src/llama-vocab.cpp, load @ 0c1e570
_DENSE: Final = ".Dense"  # sentence-transformers' modules.json


class UnknownArchitectureError(Exception):
    """No definition has a class of that name."""


class _EnoughError(Exception):
    """The writer has all tensors; metadata are not wanted."""


@dataclass(slots=True)
class Captured:
    """What a definition would write. writers: the model's first. known: names that it kept of what it was given."""

    writers: list[Any] = field(default_factory=list)
    kept: set[str] = field(default_factory=set)
    notes: list[str] = field(default_factory=list)
    file_type: int = 0
    architecture: str = ""
    other_models: list[str] = field(default_factory=list)


def capture(conversion: Conversion, staged: Path, file_type: str, loaded: Loaded, *, only_tensors: bool) -> Captured:
    """Have the definition for a directory write into a writer that keeps everything back."""
    base, gguf = import_module("conversion.base"), import_module("gguf")
    captured = Captured(file_type=int(getattr(gguf.LlamaFileType, _FILE_TYPES[file_type])))
    _give_tensors(base, conversion.tensors, loaded, captured)
    _keep_back(gguf, captured)
    _name_pre_tokenizers(base, conversion, staged, captured)
    if only_tensors:
        _stop_before_metadata(base, captured)
    model = _model(conversion, staged, captured)
    with contextlib.suppress(_EnoughError):
        model.write()
    return captured


def _model(conversion: Conversion, staged: Path, captured: Captured) -> Any:  # noqa: ANN401
    package, base = import_module("conversion"), import_module("conversion.base")
    gguf, is_mmproj = import_module("gguf"), conversion.part is Part.MMPROJ
    hparams = base.ModelBase.load_hparams(staged, False)  # noqa: FBT003 - its own signature
    model_type = base.ModelType.MMPROJ if is_mmproj else base.ModelType.TEXT
    architecture = base.get_model_architecture(hparams, model_type)
    try:
        model_class = package.get_model_class(architecture, mmproj=is_mmproj)
    except NotImplementedError as error:
        raise UnknownArchitectureError(architecture) from error
    captured.architecture = architecture
    captured.other_models = _other_models(package, base, hparams, model_class)
    _choose_layers(model_class, conversion, captured)
    out = staged.parent / "out" / f"{staged.name}.gguf"
    has_dense = {"sentence_transformers_dense_modules": True} if _has_dense(staged) else {}
    accepted = inspect.signature(base.ModelBase.__init__).parameters
    options = {name: value for name, value in has_dense.items() if name in accepted}
    return model_class(staged, gguf.LlamaFileType(captured.file_type), out, **options)


def _other_models(package: Any, base: Any, hparams: Any, model_class: Any) -> list[str]:  # noqa: ANN401
    architecture = base.get_model_architecture(hparams, base.ModelType.MMPROJ)
    has_mmproj = architecture in package.MMPROJ_MODEL_MAP
    return ["mmproj"] * has_mmproj + ["mtp"] * bool(getattr(model_class, "supports_mtp_export", False))


def _choose_layers(model_class: Any, conversion: Conversion, captured: Captured) -> None:  # noqa: ANN401
    """Say whether the layers that predict further tokens are wanted alone; or not at all, where they are not there.

    Parity: Qwen3.5 saved without them makes upstream fail in an assertion; what its `--no-mtp` makes is right.
    """
    if conversion.part is Part.MTP:
        if not getattr(model_class, "supports_mtp_export", False):
            raise UnknownArchitectureError(f"{captured.architecture}'s layers that predict further tokens")
        model_class.mtp_only = True
    elif hasattr(model_class, "opt_num_mtp_layers") and not any(_MTP.search(name) for name in conversion.tensors):
        model_class.no_mtp = True
        captured.notes.append("the layers that predict further tokens are not in the checkpoint")


def _has_dense(staged: Path) -> bool:
    try:
        modules = json.loads((staged / "modules.json").read_text(encoding="utf-8"))
        return any(str(module.get("type", "")).endswith(_DENSE) for module in modules)
    except (OSError, ValueError, AttributeError):
        return False


def _give_tensors(base: Any, tensors: Mapping[str, Any], loaded: Loaded, captured: Captured) -> None:  # noqa: ANN401
    def index_tensors(self: Any, remote_hf_model_id: str | None = None) -> dict[str, Callable[[], Any]]:  # noqa: ANN401
        del remote_hf_model_id
        taken = {}
        for name, tensor in tensors.items():
            source = SourceTensor(tensor, name, loaded)
            item = self.filter_tensors((name, lambda source=source: base.LazyTorchTensor.from_local_tensor(source)))
            if item:
                captured.kept.add(name)
                taken[item[0]] = item[1]
        return taken

    base.ModelBase.index_tensors = index_tensors


def _keep_back(gguf: Any, captured: Captured) -> None:  # noqa: ANN401
    def hold(self: Any, *_: Any, **__: Any) -> None:  # noqa: ANN401
        if not any(writer is self for writer in captured.writers):
            captured.writers.append(self)

    for name in ("write_header_to_file", "write_kv_data_to_file", "write_tensors_to_file", "close"):
        setattr(gguf.GGUFWriter, name, hold)
    quantize = gguf.quants.quantize

    def remembering(data: Any, tensor_type: Any) -> Any:  # noqa: ANN401
        lazy = gguf.LazyNumpyTensor.from_eager(data) if isinstance(data, np.ndarray) else data
        made = quantize(lazy, tensor_type)
        made.made_from = lazy
        return made

    gguf.quants.quantize = remembering


def _stop_before_metadata(base: Any, captured: Captured) -> None:  # noqa: ANN401
    def prepare_metadata(self: Any, *_: Any, **__: Any) -> None:  # noqa: ANN401
        captured.writers.append(self.gguf_writer)
        raise _EnoughError

    base.ModelBase.prepare_metadata = prepare_metadata


def _name_pre_tokenizers(base: Any, conversion: Conversion, staged: Path, captured: Captured) -> None:  # noqa: ANN401
    known_by_hash = base.TextModel.get_vocab_base_pre

    def get_vocab_base_pre(self: Any, tokenizer: Any) -> str:  # noqa: ANN401
        if conversion.pre_tokenizer is not None:
            return conversion.pre_tokenizer
        try:
            return str(known_by_hash(self, tokenizer))
        except NotImplementedError:
            if _kind_of(tokenizer) != "BPE":
                return _NO_BPE
            files = TokenizerFiles(staged)
            name = name_pre_tokenizer(files, read_fast_tokenizer(files), asked=None)
            captured.notes.append(f"llama.cpp does not know the pre-tokenizer; by what it declares it is `{name}`")
            return name

    base.TextModel.get_vocab_base_pre = get_vocab_base_pre


def _kind_of(tokenizer: Any) -> str:  # noqa: ANN401
    """Name the model of transformers' tokenizer: BPE, WordPiece or Unigram."""
    return type(getattr(getattr(tokenizer, "backend_tokenizer", None), "model", None)).__name__
