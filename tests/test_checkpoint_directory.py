"""Which files of a model directory are read, in which order, and what is said when they cannot be."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest
from checkpoint_directories import INDEX, hint, index, placed, put, refusal
from safetensors import safe_open

from convert.checkpoint import WeightFile, open_checkpoint

if TYPE_CHECKING:
    from pathlib import Path

S1, S2, S3 = (f"model-{n:05d}-of-00003.safetensors" for n in (1, 2, 3))


# --- what is read, in which order -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"model.safetensors": ["b", "a"]}, [("a", "model.safetensors"), ("b", "model.safetensors")]),
        ({"pytorch_model.bin": ["b", "a"]}, [("b", "pytorch_model.bin"), ("a", "pytorch_model.bin")]),
        ({"llama.pt": ["b", "a"], "config.json": {}}, [("b", "llama.pt"), ("a", "llama.pt")]),
        ({"llama.pth": ["w"]}, [("w", "llama.pth")]),
        ({"epoch=3.ckpt": ["w"]}, [("w", "epoch=3.ckpt")]),
        ({S2: ["a"], S1: ["c", "b"], S3: ["d"]}, [("b", S1), ("c", S1), ("a", S2), ("d", S3)]),
        (
            {S2: ["a"], S1: ["b"], S3: ["d"], INDEX: index(a=S2, d=S3, b=S1)},
            [("b", S1), ("a", S2), ("d", S3)],
        ),
        (
            {"pytorch_model-00002-of-00002.bin": ["a"], "pytorch_model-00001-of-00002.bin": ["c", "b"]},
            [
                ("c", "pytorch_model-00001-of-00002.bin"),
                ("b", "pytorch_model-00001-of-00002.bin"),
                ("a", "pytorch_model-00002-of-00002.bin"),
            ],
        ),
        (
            {
                "pytorch_model-z.bin": ["a"],
                "b.bin": ["b"],
                "pytorch_model.bin.index.json": index(a="pytorch_model-z.bin", b="b.bin"),
            },
            [("b", "b.bin"), ("a", "pytorch_model-z.bin")],
        ),
        ({"parts/x.safetensors": ["w"], INDEX: index(w="parts/x.safetensors")}, [("w", "x.safetensors")]),
    ],
)
def test_tensors_are_in_the_reference_s_order(
    tmp_path: Path, files: dict[str, Any], expected: list[tuple[str, str]]
) -> None:
    checkpoint = open_checkpoint(put(tmp_path, files))
    assert (checkpoint.directory, placed(checkpoint), checkpoint.notes) == (tmp_path, expected, ())


@pytest.mark.parametrize(
    ("files", "taken", "note"),
    [
        (
            {"model.safetensors": ["w"], "pytorch_model.bin": ["v"], "x.pt": ["u"]},
            "model.safetensors",
            "reads `model.safetensors`, passes over `pytorch_model.bin`, `x.pt`",
        ),
        (
            {"pytorch_model.bin": ["v"], "x.pt": ["u"], "other.safetensors": ["w"]},
            "pytorch_model.bin",
            "reads `pytorch_model.bin`, passes over `other.safetensors`, `x.pt`",
        ),
        (
            {"model.safetensors": ["w"], "model-old.safetensors": ["w"], INDEX: index(w="model.safetensors")},
            "model.safetensors",
            "reads `model.safetensors`, passes over `model-old.safetensors`",
        ),
    ],
)
def test_files_that_are_passed_over_are_noted(tmp_path: Path, files: dict[str, Any], taken: str, note: str) -> None:
    checkpoint = open_checkpoint(put(tmp_path, files))
    assert [file.path.name for file in checkpoint.files] == [taken]
    assert checkpoint.notes == (note,)


B1, B2 = (f"pytorch_model-{n:05d}-of-00002.bin" for n in (1, 2))


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (
            {"model.safetensors": ["w"], S1: ["w"], S2: ["v"], S3: ["u"], INDEX: index(w=S1, v=S2, u=S3)},
            "model.safetensors",
        ),
        ({"model.safetensors": ["w"], INDEX: index(w=S1, v=S2)}, "model.safetensors"),
        ({"model.safetensors": ["w"], S1: ["w"], S2: ["v"], S3: ["u"]}, "model.safetensors"),
        ({"model.safetensors": ["w"], "pytorch_model.bin.index.json": index(w=B1)}, "model.safetensors"),
        (
            {"pytorch_model.bin": ["w"], B1: ["w"], B2: ["v"], "pytorch_model.bin.index.json": index(w=B1, v=B2)},
            "pytorch_model.bin",
        ),
        ({"pytorch_model.bin": ["w"], INDEX: index(w=S1, v=S2)}, "pytorch_model.bin"),
        ({"llama-00001-of-00001.safetensors": ["w"], "training_args.bin": b""}, "llama-00001-of-00001.safetensors"),
    ],
)
def test_the_single_file_wins_over_what_another_save_left(tmp_path: Path, files: dict[str, Any], expected: str) -> None:
    from transformers.modeling_utils import _get_resolved_checkpoint_files as transformers_looks

    checkpoint = open_checkpoint(put(tmp_path, files))
    assert [file.path.name for file in checkpoint.files] == [expected]
    if len(files) > 2 or INDEX not in files:
        assert not checkpoint.notes or checkpoint.notes[0].startswith(f"reads `{expected}`, passes over")
    if "llama" not in expected and not (expected.endswith("bin") and INDEX in files):  # which transformers gives up on
        asked: dict[str, Any] = dict.fromkeys(("variant", "gguf_file", "use_safetensors", "user_agent"))
        found, _ = transformers_looks(str(tmp_path), **asked, is_remote_code=False, download_kwargs={})
        assert found == [str(tmp_path / expected)]


@pytest.mark.parametrize("with_index", [True, False])
def test_shards_of_another_stem_are_read(tmp_path: Path, *, with_index: bool) -> None:
    shards = {f"llama-0000{n}-of-00002.safetensors": [name] for n, name in ((1, "a"), (2, "b"))}
    extra = {"llama.safetensors.index.json": index(a=next(iter(shards)), b=list(shards)[1])} if with_index else {}
    assert [name for name, _ in placed(open_checkpoint(put(tmp_path, shards | extra)))] == ["a", "b"]


def test_what_a_trainer_leaves_is_neither_weights_nor_worth_a_note(tmp_path: Path) -> None:
    left = dict.fromkeys(("optimizer.pt", "scheduler.pt", "rng_state.pth", "rng_state_0.pth", "training_args.bin"), b"")
    checkpoint = open_checkpoint(put(tmp_path, {**left, "model.pt": ["w"], "adapter_model.safetensors": ["x"]}))
    assert (placed(checkpoint), checkpoint.notes) == ([("w", "model.pt")], ())


def test_the_files_and_their_sizes_are_told(tmp_path: Path) -> None:
    put(tmp_path, {S1: ["a"], S2: ["b"], S3: ["c"]})
    expected = tuple(WeightFile(tmp_path / name, (tmp_path / name).stat().st_size) for name in (S1, S2, S3))
    assert open_checkpoint(tmp_path).files == expected


@pytest.mark.parametrize("name", ["my.safetensors", "my.pt", "my.pth", "my.bin", "my.ckpt"])
def test_a_file_may_be_named_instead_of_its_directory(tmp_path: Path, name: str) -> None:
    put(tmp_path, {name: ["w"], "model.safetensors": ["v"]})
    checkpoint = open_checkpoint(tmp_path / name)
    assert (checkpoint.directory, placed(checkpoint)) == (tmp_path, [("w", name)])
    assert checkpoint.notes == (f"reads `{name}` alone, since it was named",)


def test_tensors_that_only_some_architectures_need_are_kept(tmp_path: Path) -> None:
    names = ["l.attention.bias", "l.attention.masked_bias", "l.rotary_emb.inv_freq"]
    assert list(open_checkpoint(put(tmp_path, {"model.safetensors": names})).tensors) == names


# --- links ------------------------------------------------------------------------------------------------------------


def hub_cache(root: Path) -> Path:
    """Make a repository of a Hugging Face cache: a snapshot whose files link to blobs.  Returns the snapshot."""
    repository = root / "models--org--name"
    snapshot = repository / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    put(repository / "blobs", {"hash.safetensors": ["w"]})
    (snapshot / "model.safetensors").symlink_to("../../blobs/hash.safetensors")
    return snapshot


def test_a_snapshot_of_a_hub_cache_is_read_through_its_links(tmp_path: Path) -> None:
    assert placed(open_checkpoint(hub_cache(tmp_path))) == [("w", "model.safetensors")]


def test_an_indexed_snapshot_is_read_through_a_link_to_it(tmp_path: Path) -> None:
    put(hub_cache(tmp_path), {INDEX: index(w="model.safetensors")})
    (tmp_path / "mine").symlink_to(tmp_path / "models--org--name" / "snapshots" / "abc")
    assert placed(open_checkpoint(tmp_path / "mine")) == [("w", "model.safetensors")]


def test_a_link_within_the_directory_is_followed(tmp_path: Path) -> None:
    put(tmp_path, {"weights/w.safetensors": ["w"]})
    (tmp_path / "model.safetensors").symlink_to("weights/w.safetensors")
    assert placed(open_checkpoint(tmp_path)) == [("w", "model.safetensors")]


@pytest.mark.parametrize("with_index", [True, False])
@pytest.mark.parametrize("place", ["a plain directory", "a snapshot of another repository"])
def test_a_link_out_of_the_directory_is_its_owners_and_is_followed_with_a_note(
    tmp_path: Path, place: str, *, with_index: bool
) -> None:
    target = put(tmp_path / "elsewhere", {"w.safetensors": ["w"]}) / "w.safetensors"
    directory = hub_cache(tmp_path) if "snapshot" in place else put(tmp_path / "here", {"config.json": {}})
    (directory / "model.safetensors").unlink(missing_ok=True)
    (directory / "model.safetensors").symlink_to(target)
    if with_index:
        put(directory, {INDEX: index(w="model.safetensors")})
    checkpoint = open_checkpoint(directory)
    assert placed(checkpoint) == [("w", "model.safetensors")]
    note = f"follows links out of the directory, to `{tmp_path / 'elsewhere'}`: `model.safetensors`"
    assert checkpoint.notes == (note,)


def test_shards_linked_in_from_another_disk_are_read(tmp_path: Path) -> None:
    put(tmp_path / "disk", {S1: ["a"], S2: ["b"], S3: ["c"]})
    put(tmp_path / "here", {INDEX: index(a=S1, b=S2, c=S3)})
    for name in (S1, S2, S3):
        (tmp_path / "here" / name).symlink_to(tmp_path / "disk" / name)
    assert [name for name, _ in placed(open_checkpoint(tmp_path / "here"))] == ["a", "b", "c"]


def test_an_old_local_directory_of_links_into_the_cache_is_read(tmp_path: Path) -> None:
    hub_cache(tmp_path)
    (tmp_path / "local").mkdir()
    blob = tmp_path / "models--org--name" / "blobs" / "hash.safetensors"
    (tmp_path / "local" / "model.safetensors").symlink_to(blob)
    assert placed(open_checkpoint(tmp_path / "local")) == [("w", "model.safetensors")]


def test_a_repository_in_the_hubs_cache_is_its_main_branch(tmp_path: Path) -> None:
    repository = hub_cache(tmp_path).parent.parent
    assert open_checkpoint(repository).directory == repository / "snapshots" / "abc"
    put(repository / "snapshots" / "older", {"model.safetensors": ["v"]})
    put(repository / "refs", {"main": b"abc"})
    assert placed(open_checkpoint(repository)) == [("w", "model.safetensors")]


def test_a_linked_file_that_the_user_names_is_read(tmp_path: Path) -> None:
    put(tmp_path / "elsewhere", {"w.safetensors": ["w"]})
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "w.safetensors").symlink_to("../elsewhere/w.safetensors")
    checkpoint = open_checkpoint(tmp_path / "here" / "w.safetensors")
    assert checkpoint.directory == tmp_path / "here"


@pytest.mark.parametrize("target", ["model.safetensors", "nothing.safetensors"])
def test_a_link_that_leads_nowhere_is_refused(tmp_path: Path, target: str) -> None:
    (tmp_path / "model.safetensors").symlink_to(target)
    assert refusal(tmp_path).startswith("`DIR/model.safetensors` ")


# --- nothing to read --------------------------------------------------------------------------------------------------

LOOKED_FOR = "looked for `model*.safetensors`, `pytorch_model*.bin` or one `.pt`, `.pth` or `.ckpt`"


@pytest.mark.parametrize(
    ("files", "message", "hint_has"),
    [
        ({}, "`DIR` is empty, wanted a model directory", None),
        ({"config.json": {}}, f"`DIR` has no weights, {LOOKED_FOR}", None),
        (
            {"adapter_model.safetensors": ["w"], "adapter_config.json": {}},
            f"`DIR` has no weights, {LOOKED_FOR}; it has a LoRA adapter: `adapter_model.safetensors`",
            "as `merge`",
        ),
        (
            {"m.gguf": b""},
            f"`DIR` has no weights, {LOOKED_FOR}; it has a GGUF: `m.gguf`",
            "convert.quantize",
        ),
        (
            {"consolidated.00.pth": b"", "consolidated.01.pth": b""},
            (
                f"`DIR` has no weights, {LOOKED_FOR}; it has Meta's original format: "
                "`consolidated.00.pth`, `consolidated.01.pth`"
            ),
            "params.json",
        ),
        (
            {"consolidated.safetensors": ["w"]},
            f"`DIR` has no weights, {LOOKED_FOR}; it has Mistral's original format: `consolidated.safetensors`",
            "model*.safetensors",
        ),
        (
            {"flax.msgpack": b"", "tf_model.h5": b""},
            f"`DIR` has no weights, {LOOKED_FOR}; it has Flax or TensorFlow weights: `flax.msgpack`, `tf_model.h5`",
            "from_flax=True",
        ),
        (
            {"qmodel.pt": b"", "config.json": {}},
            f"`DIR` has no weights, {LOOKED_FOR}; it has HQQ's pickle: `qmodel.pt`",
            "save_to_safetensors",
        ),
        (
            {"output-00001-of-00002.safetensors": b"", "output-00002-of-00002.safetensors": b""},
            (
                f"`DIR` has no weights, {LOOKED_FOR}; it has what ExLlama saves, whose EXL weights are not decoded: "
                "`output-00001-of-00002.safetensors`, `output-00002-of-00002.safetensors`"
            ),
            "16-bit",
        ),
        (
            {"llama.safetensors": ["w"], "training_args.bin": b""},
            f"`DIR` has no weights, {LOOKED_FOR}; it has weights under other names: `llama.safetensors`",
            "name the file",
        ),
        (
            {"checkpoint-500/model.safetensors": ["w"]},
            f"`DIR` has no weights, {LOOKED_FOR}; it has directories of checkpoints: `checkpoint-500`",
            "name one of them",
        ),
        (
            {"a.safetensors": ["w"], "b.safetensors": ["w"], "quantize_config.json": {}},
            f"`DIR` has no weights, {LOOKED_FOR}; it has weights under other names: `a.safetensors`, `b.safetensors`",
            "name the file",
        ),
        (
            {"a.pt": ["w"], "b.pth": ["w"]},
            "`DIR` has several files that may be the model: `a.pt`, `b.pth`",
            "name the file",
        ),
        ({"model.safetensors": []}, "`DIR` has no tensors in its weights", None),
    ],
)
def test_a_directory_without_weights_says_what_is_there_instead(
    tmp_path: Path, files: dict[str, Any], message: str, hint_has: str | None
) -> None:
    put(tmp_path, files)
    assert refusal(tmp_path) == message
    assert (hint_has or "") in (hint(tmp_path) or "")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("model.gguf", "`DIR` is a GGUF, wanted a checkpoint"),
        (
            "config.json",
            "`DIR` is not a model directory, nor a file of weights: `.safetensors`, `.bin`, `.pt`, `.pth`, `.ckpt`",
        ),
        (S2, "`DIR` is one of 3 shards"),
    ],
)
def test_a_file_that_is_not_a_models_is_refused(tmp_path: Path, name: str, message: str) -> None:
    put(tmp_path, {name: b""})
    assert refusal(tmp_path / name) == message


def test_a_missing_path_is_refused(tmp_path: Path) -> None:
    assert refusal(tmp_path / "nothing") == "`DIR` does not exist"
    assert str(hint(tmp_path / "nothing")).startswith("a checkpoint is a directory with config.json")


def test_a_path_that_the_system_refuses_is_refused(tmp_path: Path) -> None:
    assert refusal(tmp_path / ("x" * 5000)) in {"`DIR` cannot be read: File name too long", "`DIR` does not exist"}


def test_a_cached_model_without_weights_is_told_to_be_downloaded(tmp_path: Path) -> None:
    snapshot = tmp_path / "models--org--name" / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    assert "`hf download org/name`" in str(hint(snapshot))


def test_a_hub_id_is_told_from_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    relative = type(tmp_path)("meta-llama/Llama-3.2-1B")
    assert refusal(relative) == "`DIR` does not exist"
    assert "`hf download meta-llama/Llama-3.2-1B --local-dir DIR`" in str(hint(relative))
    assert hint(relative.absolute()) == hint(relative)


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin", "x.pt"])
def test_a_fifo_in_place_of_weights_is_refused_without_waiting(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name)
    assert refusal(tmp_path) == f"`DIR/{name}` is a pipe or a device, wanted a regular file"


@pytest.mark.shared
def test_a_real_model_is_opened_as_its_producers_library_opens_it(shared_fixtures: Path) -> None:
    checkpoint = open_checkpoint(shared_fixtures / "stories260K")
    with safe_open(shared_fixtures / "stories260K" / "model.safetensors", framework="np") as library:
        expected = {name: tuple(library.get_slice(name).get_shape()) for name in sorted(library.keys())}
    assert list(checkpoint.tensors) == list(expected)
    assert {name: source.shape for name, source in checkpoint.tensors.items()} == expected
