"""A conversion on a Ray cluster of several nodes, one of which dies: the files of one machine."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import pytest
from gguf_parts import digests
from test_cluster import TYPES, UNIT, spoilt

from convert.cluster import Job, by_ray, carry_out_by_ray, make_job
from convert.conversion import convert_all, plan_all
from convert.errors import ClusterError, WeightsError
from convert.plan import OutputRequest
from convert.stream import Writing

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# What Python imports first on every node: writing hangs, or ends its process, for as long as a file says so.
HOOK: Final = """
import os, pathlib, time
there, node, pwrite = pathlib.Path(os.environ["HOOKS"]), os.environ["NODE"], os.pwrite
def hooked(*of):
    while (there / f"hang-{node}").exists():
        (there / f"hangs-{node}").touch()
        time.sleep(0.05)
    if (there / "die").exists():
        os.kill(os.getpid(), 9)
    return pwrite(*of)
os.pwrite = hooked
"""


class Nodes:
    """A cluster whose head does no work, and its nodes, a processor each."""

    def __init__(self, hooks: Path) -> None:
        from ray.cluster_utils import Cluster

        self.hooks = hooks
        (hooks / "sitecustomize.py").write_text(HOOK)
        config = {"health_check_period_ms": 500, "health_check_failure_threshold": 3}
        self.cluster: Any = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "_system_config": config})

    def add(self, name: str) -> Any:  # noqa: ANN401 - Ray has no types
        with pytest.MonkeyPatch.context() as patched:
            patched.setenv("HOOKS", str(self.hooks))
            patched.setenv("NODE", name)
            path = filter(None, (str(self.hooks), os.environ.get("PYTHONPATH")))
            patched.setenv("PYTHONPATH", os.pathsep.join(path))
            return self.cluster.add_node(num_cpus=1)

    @contextmanager
    def that(self, does: str) -> Iterator[None]:
        (self.hooks / does).touch()
        yield
        (self.hooks / does).unlink(missing_ok=True)

    def wait_until_hangs(self, name: str) -> None:
        while not (self.hooks / f"hangs-{name}").exists():
            time.sleep(0.05)
        (self.hooks / f"hangs-{name}").unlink()


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    nodes = Nodes(tmp_path_factory.mktemp("hooks"))
    nodes.add("first")
    yield nodes
    nodes.cluster.shutdown()


@pytest.fixture(scope="module")
def whole(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Return the digests of the files that one machine makes."""
    out = tmp_path_factory.mktemp("whole")
    convert_all(tiny_llama, OutputRequest(out, types=TYPES))
    return digests(out)


def _job(model: Path, out: Path) -> Job:
    return make_job(plan_all(model, OutputRequest(out, types=TYPES)), Writing(), unit_nbytes=4 * UNIT)


def test_a_node_that_dies_in_the_middle_changes_nothing(
    nodes: Nodes, tiny_llama: Path, tmp_path: Path, whole: dict[str, str]
) -> None:
    second = nodes.add("second")

    def kill() -> None:
        nodes.wait_until_hangs("second")
        nodes.cluster.remove_node(second, allow_graceful=False)

    written: list[int] = []
    with nodes.that("hang-second"):
        thread = threading.Thread(target=kill)
        thread.start()
        job = _job(tiny_llama, tmp_path)
        report = carry_out_by_ray(job, nodes.cluster.address, progress=written.append)
        thread.join()
    assert digests(tmp_path) == whole
    assert [output.written for output in report.outputs] == [True] * 3


def test_a_poisoned_unit_ends_the_run_with_its_tensors_name(nodes: Nodes, tiny_llama: Path, tmp_path: Path) -> None:
    name = "model.layers.1.mlp.up_proj.weight"
    job = _job(spoilt(tiny_llama, tmp_path / "model", name), tmp_path / "out")
    with pytest.raises(WeightsError, match=name):
        carry_out_by_ray(job, nodes.cluster.address)
    assert not (tmp_path / "out").exists()


def test_a_unit_that_ends_every_process_ends_the_run_with_its_tensors_names(
    nodes: Nodes, tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(by_ray, "_MOST_RETRIES", 1)
    with nodes.that("die"), pytest.raises(ClusterError, match=r"`token_embd\.weight`.* died, 2 times"):
        carry_out_by_ray(_job(tiny_llama, tmp_path / "out"), nodes.cluster.address)
    assert not (tmp_path / "out").exists()


def test_an_interrupted_run_ends_its_workers_and_leaves_nothing(
    nodes: Nodes, tiny_llama: Path, tmp_path: Path, whole: dict[str, str]
) -> None:
    words = [tiny_llama, tmp_path / "out", "--types", TYPES, "--ray", nodes.cluster.address]
    command = [sys.executable, "-m", "convert", "all", *map(str, words)]
    with nodes.that("hang-first"):
        run = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        nodes.wait_until_hangs("first")
        run.send_signal(signal.SIGINT)
        time.sleep(1)
    _, said = run.communicate(timeout=60)
    assert run.returncode == 130, said
    assert not (tmp_path / "out").exists()
    subprocess.run(command, check=True)
    assert digests(tmp_path / "out") == whole


def test_a_recipe_is_run_by_a_cluster(nodes: Nodes, tiny_llama: Path, tmp_path: Path, whole: dict[str, str]) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(f'models = ["{tiny_llama}"]\noutdir = "out"\ntypes = "{TYPES}"\n')
    with nodes.that("hang-first"):  # so that it is known who writes
        command = [sys.executable, "-m", "convert", "recipe", "run", recipe, "--ray", nodes.cluster.address]
        run = subprocess.Popen([*map(str, command)])
        nodes.wait_until_hangs("first")
    assert run.wait() == 0
    made = digests(tmp_path / "out")
    assert made.pop("convert.lock.json")
    assert made == whole


def test_no_cluster_at_an_address_is_told(tiny_llama: Path, tmp_path: Path) -> None:
    with pytest.raises(ClusterError, match=r"no Ray cluster answers at `127\.0\.0\.1:1`"):
        carry_out_by_ray(_job(tiny_llama, tmp_path), "127.0.0.1:1")
