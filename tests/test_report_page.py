"""The page of `convert report`: whole, harmless, and as a browser shows it."""

from __future__ import annotations

import html
import re
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from convert.report.charts import figures, write_pictures
from convert.report.data import Answers, Missing, Report, Size, Speed, Subject, TensorCost, Weights
from convert.report.page import as_page

if TYPE_CHECKING:
    from pathlib import Path

HOSTILE = '</script><script>document.title="owned"</script><!--<script>'
CLICK = """<script>
document.querySelectorAll("th button")[1].click();
setTimeout(() => { document.title = [...document.querySelectorAll("tbody tr")].map(row => row.cells[0].textContent)
  .concat(document.querySelectorAll(".chart svg").length).join(" "); }, 2000);
</script>"""
NAMES = ["size-and-loss", "speed", "memory", "where-it-is-lost"]


def _subject(kind: str, nbytes: int, loss: float, name: str = "") -> Subject:
    answers = Answers(100, 6, 0.1, 1, 0.1, loss, 0, loss, loss, loss, loss, 0.9, 0, 0, 0, 0, 512, 0, 0)
    costs = tuple(
        TensorCost(f"blk.{layer}.{part}.weight", kind, 1000, 0.01 * (layer + 1))
        for layer in range(3)
        for part in ("attn_q", "ffn_up")
    )
    speed = Speed(512, 300.0, 2.0, 128, 30.0, 1.0, 3.5, nbytes + 10**8)
    return Subject(
        name or f"m-{kind}.gguf",
        kind,
        f"m-{kind}.gguf",
        size=Size(nbytes, 10**9, nbytes / 1.25e8, {}),
        weights=Weights(loss, costs),
        answers=answers,
        speed=speed,
    )


@pytest.fixture
def report() -> Report:
    """Return one with figures of three files, and a hostile name."""
    subjects = (
        _subject("Q8_0", 8_500_000_000, 0.001),
        _subject("Q2_K", 3_000_000_000, 0.4, HOSTILE),
        _subject("Q4_K_M", 4_900_000_000, 0.021),
    )
    missing = (Missing("answers", "there is no text"),)
    return Report(HOSTILE, "m-F16.gguf", subjects, None, "Hi", "a.txt", "0", {"a": "b"}, {"c": "1"}, "convert", missing)


def test_the_page_needs_no_network_and_no_name_in_it_can_act(report: Report) -> None:
    page = as_page(report)
    own = page[: page.index("<script>")] + page[page.index("</script>") :]  # the first is Vega
    assert not re.search(r"""(?:src|href)=["']|@import|https?://(?!vega\.github\.io/schema/)""", own)
    assert page.count("<script>") == 2
    assert html.escape(HOSTILE, quote=False) in page.replace("&#34;", '"').replace("&#39;", "'")
    assert [figure.name for figure in figures(report)] == NAMES


def test_pictures_are_made_without_a_browser(report: Report, tmp_path: Path) -> None:
    written = write_pictures(figures(report), tmp_path)
    assert [path.name for path in written] == [f"{name}.{kind}" for name in NAMES for kind in ("png", "svg")]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in written[::2])
    assert all("<svg" in path.read_text() for path in written[1::2])


@pytest.mark.browser
def test_a_browser_shows_every_figure_and_sorts(report: Report, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    page.write_text(as_page(report) + CLICK, encoding="utf-8")
    command = [
        shutil.which("chromium") or "",
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        f"--user-data-dir={tmp_path}",
    ]
    command += ["--enable-logging=stderr", "--virtual-time-budget=8000", "--dump-dom", page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert "CONSOLE" not in done.stderr
    title = re.search(r"<title>(.*?)</title>", done.stdout, re.DOTALL)
    assert title is not None
    assert html.unescape(title[1]) == f"{HOSTILE} m-Q4_K_M.gguf m-Q8_0.gguf {len(NAMES)}"
