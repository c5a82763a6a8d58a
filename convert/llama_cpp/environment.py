"""What a built program is started with: the build's own libraries before any other, and a log that is printed whole."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import Final

from convert.errors import ProgramError
from convert.llama_cpp.toolchain import find_compiler
from convert.process import ask

_FLUSH: Final = "libconvert-flush.so"
# The programs print through a thread that they do not wait for at their end (common/log.cpp, common_log_main
# @ 0c1e570): the last lines are lost now and then, and of a short answer often all. Upstream's own way to wait is
# `common_log_pause`, called when it is interrupted; this library, loaded beside the program, calls it at every end.
_FLUSH_C: Final = """
#define _GNU_SOURCE
#include <dlfcn.h>
__attribute__((destructor)) static void print_the_rest(void) {
    void *(*log)(void) = (void *(*)(void))dlsym(RTLD_DEFAULT, "_Z15common_log_mainv");
    void (*pause)(void *) = (void (*)(void *))dlsym(RTLD_DEFAULT, "_Z16common_log_pauseP10common_log");
    if (log && pause) pause(log());
}
"""


def environment(program: Path) -> dict[str, str]:
    """Give what is added to the environment of a built program."""
    folder = program.resolve().parent
    own = {"LD_LIBRARY_PATH": _before(str(folder), "LD_LIBRARY_PATH")}
    if sys.platform != "linux" or not _has_flush(folder):
        return own
    # By its name alone, found along the path above: in LD_PRELOAD a space would end a path.
    return own | {"LD_PRELOAD": _before(_FLUSH, "LD_PRELOAD")}


def _before(first: str, variable: str) -> str:
    rest = os.environ.get(variable)
    return f"{first}:{rest}" if rest else first


def _has_flush(folder: Path) -> bool:
    """Whether the library is beside the programs; it is made where it is missing and can be."""
    library = folder / _FLUSH
    if library.is_file():
        return True
    if next(folder.glob("libllama-common.so*"), None) is None or not os.access(folder, os.W_OK):
        return False  # no program that the library would find a log in, or no place for it
    if (compiler := find_compiler("c")) is None:
        return False
    try:
        with tempfile.TemporaryDirectory(dir=folder, prefix=".flush-") as scratch:
            source, made = Path(scratch) / "flush.c", Path(scratch) / _FLUSH
            source.write_text(_FLUSH_C, encoding="utf-8")
            answer = ask([*compiler.command, "-shared", "-fPIC", "-O1", source, "-o", made, "-ldl"], timeout_s=60)
            if answer.exit_code == 0:
                made.replace(library)
    except (OSError, ProgramError):
        return False
    return library.is_file()
