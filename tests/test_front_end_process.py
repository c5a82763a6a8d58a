"""The process that runs llama.cpp's definitions: confined, ended with us, honest when it fails; what goes into it."""

from __future__ import annotations

import json
import os
import pickle
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Final

import pytest
from front_end_checkpoints import write_front_end_checkpoint
from peft_adapters import write_adapter, write_base

from convert.conversion import plan_one
from convert.errors import NoSourceError, PlanError, ToolchainError, UnsupportedError
from convert.llama_cpp.front_end import Part, open_gguf_model, open_other_model
from convert.llama_cpp.front_end.gguf_model import model_through
from convert.llama_cpp.front_end.request import Definition, Wanted
from convert.llama_cpp.pin import COMMIT
from convert.model import DefinitionRequest, FrontEnd, GGUFModel, ModelRequest, model_request
from convert.plan import plan
from convert.quant_mix import FILE_TYPES
from convert.stream import Writing, carry_out

if TYPE_CHECKING:
    from collections.abc import Callable

LLAMA_CPP: Final = DefinitionRequest(FrontEnd.LLAMA_CPP)
MOVED: Final = (".safetensors", ".bin")


@pytest.fixture(scope="module", autouse=True)
def definitions(reference_source: Path) -> object:
    """Keep one process for all tests of this file: it imports torch and transformers once."""
    from convert.llama_cpp.front_end.server import definitions

    return definitions(reference_source)


@pytest.fixture(scope="module")
def bloom(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a checkpoint of which two tensors are computed whole."""
    return write_front_end_checkpoint("BloomForCausalLM", tmp_path_factory.mktemp("bloom"))


def written(model: GGUFModel, path: Path, kind: str = "F16") -> str:
    carry_out(plan(model, {FILE_TYPES[kind]: path}), Writing(jobs=2))
    return sha256(path.read_bytes()).hexdigest()


def packed(folder: Path, request: pytest.FixtureRequest) -> ModelRequest:
    del folder
    return model_request(request.getfixturevalue("packed_llama"))


def merged(folder: Path, _: pytest.FixtureRequest) -> ModelRequest:
    base = write_base(folder / "base")
    adapter = write_adapter(base, folder / "adapter", r=2, target_modules=["q_proj", "down_proj"])
    return model_request(base, merge=adapter)


def resized(folder: Path, _: pytest.FixtureRequest) -> ModelRequest:
    base = write_base(folder / "base")
    saved = ["embed_tokens", "lm_head"]
    adapter = write_adapter(
        base, folder / "adapter", resize=1030, r=2, target_modules=["q_proj"], modules_to_save=saved
    )
    return model_request(base, merge=adapter)


def torch_file(folder: Path, _: pytest.FixtureRequest) -> ModelRequest:
    import torch
    from safetensors.torch import load_file

    base = write_base(folder / "base")
    weights = load_file(base / "model.safetensors")
    (base / "model.safetensors").unlink()
    torch.save(dict(sorted(weights.items())), base / "pytorch_model.bin")
    return model_request(base)


@pytest.mark.parametrize("make", [packed, merged, resized, torch_file])
def test_whatever_our_reader_reads_goes_through(
    make: Callable[[Path, pytest.FixtureRequest], ModelRequest], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """The native files are judged by the reference elsewhere; these are the same."""
    asked = make(tmp_path, request)
    theirs = ModelRequest(asked.path, asked.adapters, asked.pre_tokenizer, LLAMA_CPP)
    ours = written(open_gguf_model(asked), tmp_path / "ours.gguf")
    assert written(open_gguf_model(theirs), tmp_path / "theirs.gguf") == ours


def test_a_plan_goes_to_another_process_which_opens_the_definition_again(bloom: Path, tmp_path: Path) -> None:
    planned = plan_one(model_request(bloom, definition=LLAMA_CPP), tmp_path / "out.gguf")
    sent = pickle.dumps(planned)
    carry_out(planned)
    ours = (tmp_path / "out.gguf").read_bytes()
    (tmp_path / "out.gguf").unlink()
    program = "import pickle, sys; from convert.stream import carry_out; carry_out(pickle.load(sys.stdin.buffer))"
    subprocess.run([sys.executable, "-c", program], input=sent, check=True)
    assert (tmp_path / "out.gguf").read_bytes() == ours


def test_memory_is_stated_and_bounded(bloom: Path, reference_source: Path) -> None:
    wanted = Wanted(ModelRequest(bloom), Definition(reference_source, COMMIT))
    through = model_through(wanted)
    assert through.memory.largest == "blk.0.attn_qkv.weight"
    # bfloat16, the same in float32, and that with its rows in another order
    assert 64 * 192 * (2 + 4 + 4) <= through.memory.nbytes <= 64 * 192 * 40
    assert any(note.startswith("memory: llama.cpp's definition computes 4 of ") for note in through.model.notes)
    limited = Wanted(ModelRequest(bloom), Definition(reference_source, COMMIT, max_nbytes=1000))
    with pytest.raises(PlanError, match=rf"needs {through.memory.nbytes} bytes of memory .* 1000 are allowed"):
        model_through(limited)


def test_a_definition_that_fails_shows_its_first_error_and_keeps_its_log(tmp_path: Path, bloom: Path) -> None:
    model = tmp_path / "gpt2"
    shutil.copytree(bloom, model)
    config = json.loads((model / "config.json").read_text()) | {"architectures": ["GPT2LMHeadModel"]}
    (model / "config.json").write_text(json.dumps(config))
    said = r"ValueError: Can not map tensor 'transformer\.h\.0\.post_attention_layernorm\.bias'"
    with pytest.raises(ToolchainError, match=rf"llama\.cpp's definition failed: {said}") as caught:
        open_gguf_model(model_request(model, definition=LLAMA_CPP))
    log = Path((caught.value.hint or "").partition("`")[2].rstrip("`"))
    assert re.search(said, log.read_text())
    log.unlink()


def test_nothing_is_left_behind(bloom: Path, tmp_path: Path) -> None:
    before = _leftovers()
    model = open_gguf_model(model_request(bloom, definition=LLAMA_CPP))
    written(model, tmp_path / "out.gguf")
    assert _leftovers() - before  # its staged directory, while the model is held
    del model
    assert _within(10, lambda: _leftovers() <= before)


def _leftovers() -> set[str]:
    return {path.name for path in Path(tempfile.gettempdir()).glob("convert-front-end-*")}


def _within(seconds: float, happens: Callable[[], bool]) -> bool:
    end = time.monotonic() + seconds
    while not happens() and time.monotonic() < end:
        time.sleep(0.05)
    return happens()


KILLED: Final = """
import os, signal, subprocess, sys
from convert.llama_cpp.front_end import open_gguf_model
from convert.model import DefinitionRequest, FrontEnd, model_request
model = open_gguf_model(model_request(sys.argv[1], definition=DefinitionRequest(FrontEnd.LLAMA_CPP)))
children = subprocess.run(["ps", "-e", "-o", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
table = [tuple(map(int, line.split())) for line in children.splitlines()]
first = [pid for pid, parent in table if parent == os.getpid()]
print(*first, *(pid for pid, parent in table if parent in first), flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_it_is_killed_with_us_even_by_a_hard_kill(bloom: Path) -> None:
    before = _leftovers()
    killed = subprocess.run([sys.executable, "-c", KILLED, str(bloom)], capture_output=True, text=True, check=False)
    pids = [int(word) for word in killed.stdout.split()]
    assert len(pids) >= 2, killed.stderr
    assert _within(10, lambda: not any(_lives(pid) for pid in pids))
    assert {name for name in _leftovers() - before if not name.endswith(".log")} == set()


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        stat = Path(f"/proc/{pid}/stat")
        return not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False


STRANGER: Final = """
import pathlib, socket
from transformers import PreTrainedTokenizerFast
try:
    socket.create_connection(("127.0.0.1", 9), timeout=1)
    said = "connected"
except OSError as error:
    said = f"{type(error).__name__}"
pathlib.Path(MARKER).write_text(said)

class StrangeTokenizer(PreTrainedTokenizerFast):
    pass
"""


@pytest.mark.parametrize("trusted", [False, True])
def test_a_checkpoint_s_code_runs_only_when_it_is_trusted_and_without_a_network(trusted: bool, tmp_path: Path) -> None:
    model, marker = write_base(tmp_path / "model"), tmp_path / "marker"
    (model / "tokenizer.model").unlink()  # or nobody would ask transformers
    config = json.loads((model / "config.json").read_text()) | {"architectures": ["DreamModel"], "model_type": "Dream"}
    (model / "config.json").write_text(json.dumps(config))
    tokenizer = json.loads((model / "tokenizer_config.json").read_text())
    mapped = {"auto_map": {"AutoTokenizer": [None, "stranger.StrangeTokenizer"]}, "tokenizer_class": "StrangeTokenizer"}
    (model / "tokenizer_config.json").write_text(json.dumps(tokenizer | mapped))
    (model / "stranger.py").write_text(STRANGER.replace("MARKER", repr(str(marker))))
    definition = DefinitionRequest(FrontEnd.LLAMA_CPP, trusts_code=trusted)
    asked = model_request(model, pre_tokenizer="llama-bpe", definition=definition)
    if trusted:
        open_gguf_model(asked)
        assert marker.read_text() == "NoNetworkError"
        return
    with pytest.raises(UnsupportedError, match="code that comes with it, which is not run unless it is trusted"):
        open_gguf_model(asked)
    assert not marker.exists()


def test_without_a_source_tree_the_error_says_how_to_get_one(bloom: Path, tmp_path: Path) -> None:
    elsewhere = DefinitionRequest(FrontEnd.LLAMA_CPP, directory=tmp_path / "none")
    with pytest.raises(NoSourceError, match=r"the source of llama\.cpp at the pinned commit 0c1e57098b is not on this"):
        open_gguf_model(model_request(bloom, definition=elsewhere))
    with pytest.raises(NoSourceError, match="at `b9999` is not on this machine"):
        open_gguf_model(model_request(bloom, definition=DefinitionRequest(FrontEnd.LLAMA_CPP, ref="b9999")))


def test_a_tree_is_found_by_what_it_was_fetched_as(tmp_path: Path) -> None:
    from convert.llama_cpp.front_end.tree import find_tree

    folder = tmp_path / "sources" / ("a" * 40)
    folder.mkdir(parents=True)
    (folder / "source.json").write_text("{}")
    (tmp_path / "refs.json").write_text(json.dumps({"b9999": "a" * 40}))
    for ref in ("b9999", "a" * 40, "aaaaaaa"):
        tree = find_tree(ref, tmp_path)
        assert tree is not None
        assert (tree.path, tree.commit) == (folder / "tree", "a" * 40)
    assert find_tree(None, tmp_path) is None
    assert find_tree("b1", tmp_path) is None


def test_what_has_no_other_part_is_refused_by_name(bloom: Path) -> None:
    with pytest.raises(UnsupportedError, match=r"llama\.cpp's definitions have none for `BloomForCausalLM`"):
        open_other_model(model_request(bloom), Part.MMPROJ)
    with pytest.raises(UnsupportedError, match="have none for `BloomForCausalLM's layers that predict further tokens`"):
        open_other_model(model_request(bloom), Part.MTP)


def test_packages_that_are_missing_are_named_with_pip_s_command(
    monkeypatch: pytest.MonkeyPatch, reference_source: Path
) -> None:
    from convert.llama_cpp.front_end import protocol, server

    ours, theirs = socket.socketpair()
    with ours, theirs:
        protocol.send(theirs, {"missing": ["torch", "yaml"]})
        monkeypatch.setattr(server, "Server", lambda *_, **__: SimpleNamespace(socket=ours))
        with pytest.raises(ToolchainError, match=r"need `torch`, `yaml`, which `.*` does not have") as caught:
            server.Definitions(reference_source).wait_until_ready()
    assert caught.value.hint == f"`{sys.executable} -m pip install torch pyyaml`"


def test_a_tree_without_the_package_is_said_so(tmp_path: Path) -> None:
    from convert.llama_cpp.front_end.server import Definitions

    with pytest.raises(ToolchainError, match="has no `conversion` package"):
        Definitions(tmp_path)
