"""llama.cpp's definitions as a front end: every file has the sha256 of what its own converter and llama-quantize make.

Live, on every row of `front_end_checkpoints.py`; each tensor that is recognised in the lazy graph, and so streams from
our reader, is compared with what the other process computes whole.
"""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pytest
import reference as llama_cpp
from front_end_checkpoints import FRONT_END_CHECKPOINTS, write_front_end_checkpoint
from front_end_reference import Job, convert_apart

from convert.checkpoint import SourceFiles, matrix_shape, open_checkpoint
from convert.llama_cpp.front_end.computed import Computed
from convert.llama_cpp.front_end.gguf_model import Through, model_through
from convert.llama_cpp.front_end.request import Definition, Part, Wanted
from convert.llama_cpp.pin import COMMIT
from convert.model import ModelRequest, float_values
from convert.plan import plan
from convert.quant_mix import FILE_TYPES
from convert.stream import Writing, carry_out

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from reference import Reference

    from convert.checkpoint import Tensor

    Plan = Callable[[str, Part], Through]

NAMES: Final = list(FRONT_END_CHECKPOINTS)
WITH_MMPROJ: Final = [name for name, row in FRONT_END_CHECKPOINTS.items() if row.has_mmproj]
MMPROJ_TYPES: Final = ("F16", "BF16", "Q8_0")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the directory of all rows' checkpoints."""
    root = tmp_path_factory.mktemp("models")
    for name in NAMES:
        write_front_end_checkpoint(name, root)
    return root


@pytest.fixture(scope="module")
def through(models: Path, reference_source: Path) -> Plan:
    """Return what plans a row through the definitions; once a row and part, and all by one process."""
    known: dict[tuple[str, Part], Through] = {}

    def planned(name: str, part: Part = Part.TEXT) -> Through:
        if (name, part) not in known:
            definition = Definition(reference_source, COMMIT)
            known[name, part] = model_through(Wanted(ModelRequest(models / name), definition, part))
        return known[name, part]

    return planned


@pytest.fixture(scope="module")
def theirs(models: Path, reference_source: Path, tmp_path_factory: pytest.TempPathFactory) -> Mapping[Any, str | Path]:
    """Return the reference's files by (name, type) and, of what is not text, (name, "mmproj", type); or its errors."""
    out = tmp_path_factory.mktemp("theirs")
    keys: list[tuple[str, ...]] = [(name, kind) for name in NAMES for kind in ("F16", *_float_types(name))]
    keys += [(name, "mmproj", kind) for name in WITH_MMPROJ for kind in MMPROJ_TYPES]
    jobs = [
        Job(str(models / key[0]), str(out / ("-".join(key) + ".gguf")), key[-1].lower(), ("--mmproj",) * (len(key) > 2))
        for key in keys
    ]
    errors = convert_apart(reference_source, jobs)
    return {key: error or out / ("-".join(key) + ".gguf") for key, error in zip(keys, errors, strict=True)}


def _float_types(name: str) -> tuple[str, ...]:
    return tuple(kind for kind in FRONT_END_CHECKPOINTS[name].types if kind in ("F32", "BF16"))


def _hash(path: str | Path) -> str:
    assert not isinstance(path, str), path
    return sha256(path.read_bytes()).hexdigest()


def _made(through: Through, folder: Path, types: tuple[str, ...]) -> dict[str, str]:
    paths = {FILE_TYPES[kind]: folder / f"{kind}.gguf" for kind in types}
    carry_out(plan(through.model, paths), Writing(jobs=2))
    return {kind.name: _hash(path) for kind, path in paths.items()}


@pytest.mark.parametrize("name", NAMES)
def test_live_every_file_is_the_reference_s(
    name: str, through: Plan, reference: Reference, theirs: Mapping[Any, str | Path], tmp_path: Path
) -> None:
    row = FRONT_END_CHECKPOINTS[name]
    types = ("F16", *row.types) if row.only_float is None else ("F16", *_float_types(name))
    wanted = {kind: _hash(theirs[name, kind]) for kind in types if (name, kind) in theirs}
    for kind in types:
        if kind not in wanted:
            source = theirs[name, "F16"]
            assert not isinstance(source, str)
            llama_cpp.quantize(reference, source, tmp_path / f"theirs-{kind}.gguf", kind)
            wanted[kind] = _hash(tmp_path / f"theirs-{kind}.gguf")
    assert _made(through(name, Part.TEXT), tmp_path, types) == wanted


@pytest.mark.parametrize("name", WITH_MMPROJ)
def test_live_what_is_not_text_is_the_reference_s(
    name: str, through: Plan, theirs: Mapping[Any, str | Path], tmp_path: Path
) -> None:
    wanted = {kind: _hash(theirs[name, "mmproj", kind]) for kind in MMPROJ_TYPES}
    assert _made(through(name, Part.MMPROJ), tmp_path, MMPROJ_TYPES) == wanted


@pytest.mark.parametrize(
    ("name", "part"), [(name, Part.TEXT) for name in NAMES] + [(name, Part.MMPROJ) for name in WITH_MMPROJ]
)
def test_a_view_gives_what_the_other_process_computes(name: str, part: Part, through: Plan) -> None:
    planned = through(name, part)
    files = SourceFiles()
    for tensor_name, view in planned.model.tensors:
        whole = planned.whole[tensor_name]
        assert (view.shape, isinstance(view, Computed)) == (whole.shape, view is whole)
        if view is not whole:
            assert np.array_equal(_values(view, files), _values(whole, files)), tensor_name


@pytest.mark.parametrize("name", NAMES)
def test_experts_and_all_large_tensors_stream(name: str, through: Plan) -> None:
    """What is computed whole is little: norms, biases, rope factors, state spaces, fused QKV."""
    computed = [tensor.nbytes for _, tensor in through(name, Part.TEXT).model.tensors if isinstance(tensor, Computed)]
    every = sum(tensor.nbytes for _, tensor in through(name, Part.TEXT).model.tensors)
    assert sum(computed) <= every * (0.3 if name == "BloomForCausalLM" else 0.1)
    assert not any("_exps.weight" in n for n, t in through(name, Part.TEXT).model.tensors if isinstance(t, Computed))


@pytest.mark.parametrize("name", NAMES)
def test_every_tensor_of_the_checkpoint_is_written_or_listed(name: str, through: Plan, models: Path) -> None:
    planned = through(name, Part.TEXT)
    listed = [tensor for group in planned.model.left_out for tensor, _ in group.tensors]
    assert sorted([*listed, *planned.used]) == sorted(open_checkpoint(models / name).tensors)
    assert all(group.reason and group.nbytes for group in planned.model.left_out)


def _values(tensor: Tensor, files: SourceFiles) -> np.ndarray[Any, Any]:
    n_rows = matrix_shape(tensor.shape)[0]
    middle = n_rows // 2
    return np.concatenate(
        [float_values(tensor, files, range(middle)), float_values(tensor, files, range(middle, n_rows))]
    )


def test_what_is_no_text_is_said_with_where_it_goes(through: Plan) -> None:
    (vision,) = through("Qwen2VLForConditionalGeneration", Part.TEXT).model.left_out
    assert (vision.group, vision.other_file, vision.reason) == ("vision", "mmproj", "a text model has none of it")
