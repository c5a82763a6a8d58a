"""Models in stores: S3 as a real server speaks it, through fsspec; and any server of HTTP that gives ranges."""

from __future__ import annotations

import shutil
import sys
from typing import TYPE_CHECKING

import pytest
from remote_double import lead_here, remote_double
from test_remote import digests

import convert
from convert.errors import CheckpointError, UnsupportedError
from convert.inspection import inspect
from convert.remote import located, stand_in

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from typing import Any


@pytest.fixture
def s3(tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Return a client of a server of S3, moto's, which has the small model under `s3://bucket/models/tiny`."""
    import boto3
    from moto.server import ThreadedMotoServer
    from s3fs import S3FileSystem

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name, value in {"ACCESS_KEY_ID": "me", "SECRET_ACCESS_KEY": "me", "DEFAULT_REGION": "us-east-1"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    client = boto3.client("s3")
    client.create_bucket(Bucket="bucket")
    for path in sorted(tiny_llama.iterdir()):
        client.upload_file(str(path), "bucket", f"models/tiny/{path.name}")
    S3FileSystem.clear_instance_cache()
    stand_in.opened.cache_clear()
    yield client
    server.stop()
    S3FileSystem.clear_instance_cache()


@pytest.mark.usefixtures("s3")
def test_a_model_on_s3_gives_the_files_of_the_one_here(tiny_llama: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_llama, tmp_path / "tiny")
    for source, out in ((tmp_path / "tiny", "local"), ("s3://bucket/models/tiny", "remote")):
        convert.convert_all(source, convert.OutputRequest(tmp_path / out, types="f16,q4_0"))
    assert digests(tmp_path / "remote") == digests(tmp_path / "local")
    assert inspect("s3://bucket/models/tiny/").path == "s3://bucket/models/tiny"


def test_a_gguf_on_s3_is_quantized(s3: Any, tiny_llama: Path, tmp_path: Path) -> None:  # noqa: ANN401
    convert.convert_one(tiny_llama, tmp_path / "m-F16.gguf")
    s3.upload_file(str(tmp_path / "m-F16.gguf"), "bucket", "m-F16.gguf")
    for source, out in ((tmp_path / "m-F16.gguf", "local"), ("s3://bucket/m-F16.gguf", "remote")):
        convert.quantize(source, convert.OutputRequest(tmp_path / out, types="q4_0"))
    assert digests(tmp_path / "remote") == digests(tmp_path / "local")


def test_an_object_that_changes_is_an_error(s3: Any, tmp_path: Path) -> None:  # noqa: ANN401
    plan = convert.plan_all("s3://bucket/models/tiny", convert.OutputRequest(tmp_path / "out", types="f16"))
    data = s3.get_object(Bucket="bucket", Key="models/tiny/model.safetensors")["Body"].read()
    s3.put_object(Bucket="bucket", Key="models/tiny/model.safetensors", Body=data[:-2] + b"\0\0")
    with pytest.raises(CheckpointError, match=r"s3://bucket/models/tiny/model.safetensors` has changed while it was"):
        convert.carry_out(plan)
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("s3")
@pytest.mark.parametrize("asked", ["s3://bucket/models/other", "s3://nothing/tiny"])
def test_what_is_not_there_is_told(asked: str) -> None:
    with pytest.raises(CheckpointError, match=f"`{asked}` is not there"):
        located(asked)


def test_a_store_without_its_package_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(UnsupportedError, match="`gs://bucket/tiny` cannot be read") as caught:
        located("gs://bucket/tiny")
    assert caught.value.hint == "`pip install 'gguf-convert[remote]'` brings what is needed"


def test_a_page_that_lists_files_is_a_model(tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(tiny_llama, tmp_path / "models" / "tiny")
    with remote_double({"models/tiny": tmp_path / "models" / "tiny"}) as double:
        lead_here(double, monkeypatch, tmp_path / "home")
        double.lists = True
        for source, out in ((tmp_path / "models" / "tiny", "local"), (f"{double.storage}/models/tiny", "remote")):
            convert.convert_all(source, convert.OutputRequest(tmp_path / out, types="q4_0"))
    assert digests(tmp_path / "remote") == digests(tmp_path / "local")


def test_a_gguf_behind_https_is_read_by_ranges(
    tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "server").mkdir()
    path = tmp_path / "server" / "m-F16.gguf"
    convert.convert_one(tiny_llama, path)
    with remote_double({"any/files": path.parent}) as double:
        lead_here(double, monkeypatch, tmp_path / "home")
        address = f"{double.storage}/any/files/m-F16.gguf?signature=1"
        for source, out in ((path, "local"), (address, "remote")):
            convert.quantize(source, convert.OutputRequest(tmp_path / out, types="q4_0"))
        assert digests(tmp_path / "remote") == digests(tmp_path / "local")
        with pytest.raises(CheckpointError, match="is not there: the server answers 403"):
            located(address.replace("signature=1", "signature=2"))
        double.signature = 2
        address = address.replace("signature=1", "signature=2")
        convert.quantize(address, convert.OutputRequest(tmp_path / "remote", types="q4_0"))
        double.changes_after = 1  # asked how long it is, and then
        with pytest.raises(CheckpointError, match="has changed while it was read: its"):
            convert.quantize(address, convert.OutputRequest(tmp_path / "again", types="q4_0"))
