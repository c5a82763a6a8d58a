"""Programs that judge other formats and cannot live beside transformers 5: an environment of their own, made once.

It lies in the user's cache, sees what is installed here, torch above all, and has its own transformers 4, LitGPT and
mistral-common in front of it.

    python tests/judges.py          make it now, and print where it is
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import sysconfig
import zipfile
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from convert.llama_cpp import where

_PACKAGES: Final = ("litgpt==0.5.13", "transformers==4.57.6", "mistral-common==1.13.1", "tiktoken==0.14.0")
# The last transformers whose wheel has Meta's conversion.
_WITH_META: Final = "transformers==4.45.2"
_META: Final = "transformers/models/llama/convert_llama_weights_to_hf.py"


def prepare_judges() -> Path:
    """Return the environment's interpreter; the first call installs some 300 MB."""
    digest = hashlib.sha256(repr((_PACKAGES, sys.prefix, sys.version)).encode()).hexdigest()[:12]
    root = where.user_cache().path.parent / f"judges-{digest}"
    python = root / "bin" / "python"
    if not (root / "made").exists():
        _call(sys.executable, "-m", "venv", "--clear", str(root))
        packages = Path(sysconfig.get_path("purelib", vars={"base": str(root)}))
        (packages / "zz_beside.pth").write_text(sysconfig.get_path("purelib") + "\n")
        torch = f"torch=={version('torch').partition('+')[0]}"  # as here, so that no second one comes
        _call(str(python), "-m", "pip", "install", "-q", torch, *_PACKAGES)
        _call(str(python), "-m", "pip", "download", "-q", "--no-deps", "-d", str(root), _WITH_META)
        with zipfile.ZipFile(next(root.glob("transformers-*.whl"))) as wheel:
            (root / "meta.py").write_bytes(wheel.read(_META))
        (root / "made").touch()
    return python


def judge(program: str, request: dict[str, Any]) -> dict[str, Any]:
    """Run a program in the environment: it reads the request as JSON from stdin, and prints an answer as its last line.

    ROOT in it is the environment's directory.
    """
    python = prepare_judges()
    kept = {name: value for name, value in os.environ.items() if name not in {"PYTHONPATH", "NO_LOCAL_GGUF"}}
    finished = subprocess.run(
        [str(python), "-W", "ignore", "-c", f"ROOT = {str(python.parents[1])!r}\n{program}"],
        input=json.dumps(request),
        capture_output=True,
        text=True,
        check=False,
        env=kept | {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"},
    )
    assert finished.returncode == 0, finished.stderr[-3000:]
    answer: dict[str, Any] = json.loads(finished.stdout.splitlines()[-1])
    return answer


def _call(*command: str) -> str:
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr[-3000:]
    return finished.stdout


if __name__ == "__main__":
    sys.stdout.write(f"{prepare_judges()}\n")
