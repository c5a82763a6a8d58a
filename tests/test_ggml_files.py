"""Files of llama.cpp before GGUF, judged by llama.cpp's own conversion of them."""

from __future__ import annotations

import struct
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import gguf
import numpy as np
import pytest
from click.testing import CliRunner
from gguf import GGMLQuantizationType as Kind
from reference import Reference, environment
from reference import quantize as quantize_by_reference

from convert.checkpoint import Stated
from convert.cli import cli
from convert.conversion import quantize
from convert.errors import ConvertError, Remedy
from convert.gguf_file import read_gguf
from convert.plan import OutputRequest

if TYPE_CHECKING:
    from pathlib import Path

WIDTH, N_HEADS, N_KV, INNER, N_LAYERS = 64, 4, 2, 96, 2
N_TOKENS = 270
STATED = Stated(context=2048, gqa=2, eps=1e-5)


def write_ggml(path: Path, kind: Kind, file_type: int, *, magic: bytes = b"tjgg", version: int = 3) -> Path:
    """Write a small Llama as llama.cpp's convert.py and quantize did in 2023."""
    rng = np.random.default_rng(7)
    data = magic + (b"" if magic == b"lmgg" else struct.pack("<I", version))
    data += struct.pack("<7I", N_TOKENS, WIDTH, 32, N_HEADS, N_LAYERS, WIDTH // N_HEADS, file_type)
    for number in range(N_TOKENS):
        text = bytes([number - 3]) if 3 <= number <= 258 else b"" if number in (0, 260) else b" word"
        data += struct.pack("<I", len(text)) + text
        data += b"" if magic == b"lmgg" else struct.pack("<f", -float(number))
    shapes: dict[str, tuple[int, ...]] = {"tok_embeddings.weight": (N_TOKENS, WIDTH), "norm.weight": (WIDTH,)}
    shapes["output.weight"] = (N_TOKENS, WIDTH)
    for layer in range(N_LAYERS):
        at, keys = f"layers.{layer}", WIDTH // N_HEADS * N_KV
        shapes |= {f"{at}.attention.wq.weight": (WIDTH, WIDTH), f"{at}.attention.wk.weight": (keys, WIDTH)}
        shapes |= {f"{at}.attention.wv.weight": (keys, WIDTH), f"{at}.attention.wo.weight": (WIDTH, WIDTH)}
        shapes |= {f"{at}.attention_norm.weight": (WIDTH,), f"{at}.feed_forward.w1.weight": (INNER, WIDTH)}
        shapes |= {f"{at}.feed_forward.w2.weight": (WIDTH, INNER), f"{at}.feed_forward.w3.weight": (INNER, WIDTH)}
        shapes[f"{at}.ffn_norm.weight"] = (WIDTH,)
    for name, shape in shapes.items():
        stored = kind if len(shape) > 1 else Kind.F32
        blocks = gguf.quantize(rng.standard_normal(shape).astype(np.float32), stored).tobytes()
        data += struct.pack("<3I", len(shape), len(name), stored) + struct.pack(f"<{len(shape)}I", *shape[::-1])
        data += name.encode()
        data += bytes(-len(data) % 32) if magic == b"tjgg" else b""
        data += blocks
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("kind", "file_type", "magic", "version"),
    [
        (Kind.Q4_0, 2, b"tjgg", 3),
        (Kind.Q5_1, 9, b"tjgg", 3),
        (Kind.Q8_0, 7, b"tjgg", 3),
        (Kind.Q5_0, 8, b"tjgg", 2),
        (Kind.F16, 1, b"tjgg", 1),
        (Kind.F16, 1, b"fmgg", 1),
        (Kind.F32, 0, b"lmgg", 1),
    ],
)
def test_it_is_what_llama_cpp_makes_of_it(
    kind: Kind, file_type: int, magic: bytes, version: int, reference: Reference, tmp_path: Path
) -> None:
    old = write_ggml(tmp_path / "tiny.ggmlv3.x.bin", kind, file_type, magic=magic, version=version)
    quantize(old, OutputRequest(tmp_path / "ours", "copy"), stated=STATED)
    theirs = tmp_path / "theirs.gguf"
    command = [sys.executable, "-c", _CONVERT, str(reference.source), "-i", str(old), "-o", str(theirs)]
    command += ["--gqa", "2", "--eps", "1e-5", "-c", "2048"]
    subprocess.run(command, check=True, capture_output=True, env=environment())
    (ours,) = (tmp_path / "ours").iterdir()
    assert ours.name == "tiny-COPY.gguf"
    quantize_by_reference(reference, theirs, tmp_path / "copied.gguf", "COPY")
    assert ours.read_bytes() == (tmp_path / "copied.gguf").read_bytes()


# The script hands shapes in elements to a writer that has since come to take them for bytes: it then halves the rows of
# f16, and refuses all blocks. Shapes are let through.
_CONVERT = """
import runpy, sys
source = sys.argv.pop(1)
sys.path.insert(0, source + "/gguf-py")
import gguf.gguf_writer
gguf.gguf_writer.quant_shape_from_byte_shape = lambda shape, kind: shape
runpy.run_path(source + "/convert_llama_ggml_to_gguf.py", run_name="__main__")
"""


def test_a_float_file_is_quantized_by_the_command(tmp_path: Path) -> None:
    old = str(write_ggml(tmp_path / "tiny.ggmlv3.f16.bin", Kind.F16, 1))
    command = ["quantize", old, str(tmp_path / "out"), "--types", "q4_0", "--eps", "1e-6", "--context", "2048"]
    result = CliRunner().invoke(cli, command, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert {t.type for t in read_gguf(tmp_path / "out" / "tiny-Q4_0.gguf").tensors} >= {Kind.Q4_0, Kind.F32}


def _refused(path: Path, stated: Stated = STATED) -> ConvertError:
    with pytest.raises(ConvertError) as caught:
        quantize(path, OutputRequest(path.parent / "out", "copy"), stated=stated)
    assert not (path.parent / "out").exists()
    return caught.value


@pytest.mark.parametrize(
    ("stated", "remedy"),
    [(Stated(context=2048), Remedy.GIVE_EPSILON), (Stated(eps=1e-5), Remedy.GIVE_CONTEXT)],
)
def test_what_the_file_does_not_say_is_asked_for(stated: Stated, remedy: Remedy, tmp_path: Path) -> None:
    old = write_ggml(tmp_path / "a.bin", Kind.F16, 1)
    assert _refused(old, stated).remedies == (remedy,)


def test_a_stated_grouping_is_held_against_the_keys(tmp_path: Path) -> None:
    old = write_ggml(tmp_path / "a.bin", Kind.F16, 1)
    assert "has keys for 2" in _refused(old, Stated(context=1, gqa=4, eps=1e-5)).message


def _put(at: int, number: int) -> Any:  # noqa: ANN401
    return lambda data: data[:at] + struct.pack("<I", number) + data[at + 4 :]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data[:-5], "reaches to byte"),
        (lambda data: data[:20], "hyperparameters needs 28 bytes"),
        (lambda data: data[:200], "needs"),
        (_put(4, 9), "is GGJTv9, which is not known"),
        (_put(8, 1 << 31), "tokens, a width of"),
        (_put(20, 0), "0 heads"),
        (_put(32, 99), "file type 99"),
        (_put(36, 1 << 20), "token has 1048576 bytes"),
        (lambda data: data.replace(b"layers.1.ffn_norm", b"layers.0.ffn_norm"), "two tensors have the same name"),
        (lambda data: data.replace(b"layers.1.ffn_norm", b"layers.1.xxx_norm"), "has no place in a Llama of 2 layers"),
    ],
)
def test_lies_are_told_before_any_output(change: Any, message: str, tmp_path: Path) -> None:  # noqa: ANN401
    old = write_ggml(tmp_path / "a.bin", Kind.F16, 1)
    old.write_bytes(change(old.read_bytes()))
    assert message in _refused(old).message


def test_blocks_of_another_day_are_refused(tmp_path: Path) -> None:
    for version, file_type, kind in ((2, 2, Kind.Q4_0), (1, 9, Kind.Q5_1)):
        old = write_ggml(tmp_path / "a.bin", kind, file_type, version=version)
        assert "whose blocks are no longer those of today" in _refused(old).message
