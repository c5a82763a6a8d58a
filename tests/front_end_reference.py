"""The reference converter on many checkpoints: imported once, and forked for each, since its classes keep state."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Final

from reference import environment

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class Job:
    """A file to be made. flags: more of convert_hf_to_gguf.py's options."""

    model: str
    out: str
    outtype: str = "f16"
    flags: tuple[str, ...] = ()


def convert_apart(source: Path, jobs: Sequence[Job], *, pre_tokenizer: str = "llama-bpe") -> list[str | None]:
    """Run convert_hf_to_gguf.py of a source tree for each job: the last line of its traceback, or None.

    pre_tokenizer: what a BPE that it does not know by its hash is to be called; what is no BPE is `default`.
    """
    request = {"source": str(source), "pre": pre_tokenizer, "jobs": [asdict(job) for job in jobs]}
    finished = subprocess.run(
        [sys.executable, "-c", _PROGRAM],
        input=json.dumps(request),
        capture_output=True,
        text=True,
        check=False,
        env=environment(),
    )
    assert finished.returncode == 0, finished.stderr[-2000:]
    answers: list[str | None] = json.loads(finished.stdout.splitlines()[-1])
    return answers


_PROGRAM: Final = """
import json, os, sys, traceback
request = json.load(sys.stdin)
answers = os.dup(1)
os.dup2(2, 1)
sys.path.insert(0, request["source"])
import convert_hf_to_gguf
from conversion.base import TextModel

known_by_hash = TextModel.get_vocab_base_pre

def get_vocab_base_pre(self, tokenizer):
    try:
        return known_by_hash(self, tokenizer)
    except NotImplementedError:
        is_bpe = type(tokenizer.backend_tokenizer.model).__name__ == "BPE"
        return request["pre"] if is_bpe else "default"

TextModel.get_vocab_base_pre = get_vocab_base_pre

def one(job):
    asked = ["--outtype", job["outtype"], "--outfile", job["out"], *job["flags"]]
    sys.argv = ["convert_hf_to_gguf.py", job["model"], *asked]
    try:
        convert_hf_to_gguf.main()
    except SystemExit as stop:
        return f"exit {stop.code}" if stop.code else None
    except Exception as refusal:
        return traceback.format_exception_only(refusal)[-1].strip()
    return None if os.path.isfile(job["out"]) else "no output file"

errors = []
for job in request["jobs"]:
    reading, writing = os.pipe()
    if os.fork() == 0:
        os.write(writing, json.dumps(one(job)).encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        errors.append(json.loads(pipe.read() or '"it died"'))
    os.wait()
os.write(answers, json.dumps(errors).encode())
"""
