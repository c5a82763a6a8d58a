"""What every test may ask for: the reference llama.cpp, the shared fixtures, the tiny models; and what was deselected.

Two needs are markers, put by hand or by using the fixture that needs it, and nothing skips silently:

    shared      needs ../shared/fixtures; deselected, with a line in the summary, where that folder is missing
    llama_cpp   needs the reference llama.cpp; deselected, with a line in the summary, only under --no-llama-cpp
"""

from __future__ import annotations

import shutil
import signal
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest
from reference import Reference, prepare_libggml_base, prepare_reference, prepare_source

if TYPE_CHECKING:
    from collections.abc import Iterator

PROJECT: Final = Path(__file__).resolve().parent.parent
SHARED_FIXTURES: Final = PROJECT.parent / "shared" / "fixtures"
TINY_LLAMA: Final = PROJECT / "tests" / "data" / "tiny-llama"

MARKER_OF_FIXTURE: Final = {
    "shared_fixtures": "shared",
    "reference": "llama_cpp",
    "reference_source": "llama_cpp",
    "libggml_base": "llama_cpp",
}
DESELECTED: Final = pytest.StashKey[dict[str, int]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add this project's options to pytest's own."""
    group = parser.getgroup("convert")
    group.addoption("--no-llama-cpp", action="store_true", help="leave out the tests that need the reference llama.cpp")
    group.addoption("--update-golden", action="store_true", help="write the golden files again instead of comparing")


def pytest_configure() -> None:
    """Take SIGINT back where a shell that runs us in the background ignores it: programs under test inherit that."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark each test by the fixtures it uses, then take out those whose need is missing here."""
    for item in items:
        for fixture in getattr(item, "fixturenames", ()):
            if fixture in MARKER_OF_FIXTURE:
                item.add_marker(MARKER_OF_FIXTURE[fixture])
    counts = config.stash.setdefault(DESELECTED, {})
    for marker, reason in _missing_needs(config).items():
        deselected = [item for item in items if item.get_closest_marker(marker)]
        items[:] = [item for item in items if not item.get_closest_marker(marker)]
        if deselected:
            counts[f"marked `{marker}`: {reason}"] = len(deselected)
            config.hook.pytest_deselected(items=deselected)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say which tests were taken out, and why."""
    for reason, count in config.stash.get(DESELECTED, {}).items():
        terminalreporter.write_line(f"deselected {count} tests {reason}", yellow=True)


def _missing_needs(config: pytest.Config) -> dict[str, str]:
    missing = {}
    if not SHARED_FIXTURES.is_dir():
        missing["shared"] = f"`{SHARED_FIXTURES}` is not there"
    if config.getoption("--no-llama-cpp"):
        missing["llama_cpp"] = "--no-llama-cpp was given"
    if shutil.which("chromium") is None:
        missing["browser"] = "`chromium` is not there"
    return missing


@contextmanager
def _progress_shown(config: pytest.Config) -> Iterator[None]:
    """Let what the fetch and the build say through to the person who waits for it."""
    capture = config.pluginmanager.getplugin("capturemanager")
    if capture is None:
        yield
        return
    with capture.global_and_fixture_disabled():
        yield


@pytest.fixture(scope="session")
def reference(pytestconfig: pytest.Config) -> Reference:
    """Return the built reference llama.cpp; the first run ever fetches and builds it, minutes."""
    with _progress_shown(pytestconfig):
        return prepare_reference()


@pytest.fixture(scope="session")
def reference_source(pytestconfig: pytest.Config) -> Path:
    """Return the reference's tree, not necessarily built: enough to run its converter."""
    with _progress_shown(pytestconfig):
        return prepare_source()


@pytest.fixture(scope="session")
def libggml_base(pytestconfig: pytest.Config) -> Path:
    """Return the reference's libggml-base, whose quantize_row_*_ref judge the kernels."""
    with _progress_shown(pytestconfig):
        return prepare_libggml_base()


@pytest.fixture(scope="session")
def shared_fixtures() -> Path:
    """Return ../shared/fixtures: real models and tokenizers made by others."""
    return SHARED_FIXTURES


@pytest.fixture(scope="session")
def tiny_llama() -> Path:
    """Return the directory of our own small trained model, as transformers saves one."""
    return TINY_LLAMA


@pytest.fixture(scope="session")
def calibrated_llama(reference: Reference, tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the reference's F16.gguf of the small model, and its importance, imatrix.gguf and .dat."""
    from reference import calibrate, convert

    folder = tmp_path_factory.mktemp("calibrated-llama")
    convert(reference.source, [(tiny_llama, folder / "F16.gguf")])
    for name in ("imatrix.gguf", "imatrix.dat"):
        calibrate(reference, folder / "F16.gguf", folder / name)
    return folder


@pytest.fixture(scope="session")
def packed_llama(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a small Llama in nf4 with everything that lies in a model's directory; made once."""
    from dequantize_checkpoints import write_packed_llama

    return write_packed_llama(tmp_path_factory.mktemp("packed") / "llama-nf4", tiny_llama)


@pytest.fixture(scope="session")
def update_golden(pytestconfig: pytest.Config) -> bool:
    """Whether golden files are to be written again."""
    return bool(pytestconfig.getoption("--update-golden"))
