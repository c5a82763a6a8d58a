"""The pin: which llama.cpp is built, and where from. One place; `vendor/README.md` says how to move it.

Every file this project writes is promised equal to what this commit makes, so a newer one is a decision, not an update.
"""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Final

GIT_URL: Final = "https://github.com/ggml-org/llama.cpp"
COMMIT: Final = "0c1e57098bba43ac29e6e3b677cdceebdd22334f"

# The source distribution on PyPI that carries exactly that commit's tree, for machines that reach no git host.
SDIST_PACKAGE: Final = "llama-cpp-python"
SDIST_VERSION: Final = "0.3.36"
SDIST: Final = f"{SDIST_PACKAGE}=={SDIST_VERSION}"
SDIST_SHA256: Final = "832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e"
SDIST_TREE: Final = PurePosixPath("llama_cpp_python-0.3.36/vendor/llama.cpp")
SDIST_NBYTES: Final = 76_600_000  # roughly, for people

# By the CUDA toolkit's major version. A library of the same major works with every toolkit and driver of that major.
CUBLAS_WHEELS: Final = {
    12: "nvidia-cublas-cu12==12.9.1.4",
    13: "nvidia-cublas==13.0.2.14",
}
