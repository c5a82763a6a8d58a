"""`convert lint`: what each program takes, and a line for everything that one does not find, with the remedy."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Final

import pytest
from gguf import GGUFWriter
from hub_double import Repository, hub_double

from convert.plan import STYLES
from convert.publish.files import FileRole
from convert.publish.lint import Listing, choices, findings, list_directory

if TYPE_CHECKING:
    from pathlib import Path

GB: Final = 10**9
# Names and lengths -> what is said of them, each by some of its words, and of its remedy's.
CASES: Final = {
    "all is well": (("m-Q4_K_M.gguf", "m-Q8_0.gguf", "mmproj-m-F16.gguf", "README.md"), {}),
    "no model": (("README.md", "mmproj-m-F16.gguf"), {"there is no GGUF model": "make one"}),
    "no type in the name": (("model.gguf",), {"`model.gguf` has no type in its name": "MODEL-TYPE.gguf"}),
    "nothing after the type": (("m-Q4_K_M_v2.gguf",), {"does not find `m-Q4_K_M_v2.gguf`": "MODEL-TYPE.gguf"}),
    "two of one tag": (("a-Q8_0.gguf", "b-Q8_0.gguf"), {"names `a-Q8_0.gguf`, `b-Q8_0.gguf`": "repository of its own"}),
    "one in another": (("m-BF16.gguf", "m-F16.gguf"), {"the tag F16 means `m-F16.gguf`": "--hf-file m-F16.gguf"}),
    "a projector elsewhere": (
        ("m-Q8_0.gguf", "vision/mmproj-F16.gguf"),
        {"`m-Q8_0.gguf` has no projector": "into the repository's root"},
    ),
    "split": (
        ("m-Q8_0/m-Q8_0-00001-of-00002.gguf", "m-Q8_0/m-Q8_0-00002-of-00002.gguf"),
        {"Ollama refuses `m-Q8_0/m-Q8_0-00001-of-00002.gguf`": "put it together"},
    ),
    "a part too few": (("m-Q8_0-00001-of-00002.gguf",), {"of the 2 parts": "upload the others"}),
    "a preset": (("m-Q8_0.gguf", "preset.ini"), {"`preset.ini`": "take it away"}),
}


@pytest.mark.parametrize("case", CASES)
def test_what_is_not_found_is_a_line_with_its_remedy(case: str) -> None:
    names, wanted = CASES[case]
    found = findings(Listing(dict.fromkeys(names, 1)))
    assert len(found) == len(wanted)
    for finding, (said, remedy) in zip(found, wanted.items(), strict=True):
        assert said in finding.message
        assert remedy in finding.remedy


def test_the_hub_s_limits() -> None:
    sizes = {"m-F16.gguf": 501 * GB, "m-Q8_0.gguf": 201 * GB, **{f"x/{number}": 1 for number in range(10_001)}}
    assert [(each.message.split(" ")[0], each.is_problem) for each in findings(Listing(sizes))] == [
        ("`m-F16.gguf`", True),
        ("`m-Q8_0.gguf`", False),
        ("`x`", True),
    ]


def test_a_name_that_llama_cpp_takes_for_no_repository() -> None:
    sizes = {"m-Q8_0.gguf": 1}
    assert findings(Listing(sizes, repository="me/a-b.c_d")) == []
    assert len(findings(Listing(sizes, repository="me/a--b"))) == 1


def write_gguf(path: Path, kind: str, file_type: int = 7) -> None:
    path.parent.mkdir(exist_ok=True)
    writer = GGUFWriter(path, "llama")
    writer.add_type(kind)
    writer.add_file_type(file_type)
    if kind == "imatrix":
        writer.add_uint32("imatrix.chunk_count", 1)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()


def test_a_directory_s_headers_tell_what_names_hide(tmp_path: Path) -> None:
    for name, kind in (("m-Q8_0.gguf", "model"), ("vision-F16.gguf", "mmproj"), ("weights.gguf", "imatrix")):
        write_gguf(tmp_path / name, kind)
    write_gguf(tmp_path / "m-Q4_K_M.gguf", "model")  # Q8_0 by its metadata
    listing = list_directory(tmp_path)
    assert listing.roles["vision-F16.gguf"] is FileRole.MMPROJ
    assert [finding.message for finding in findings(listing)] == [
        "`m-Q4_K_M.gguf` is Q8_0 by its metadata, and Q4_K_M by its name",
        "`vision-F16.gguf` is taken for a model, and is none",
        "`weights.gguf` is taken for a model, and is none",
    ]


@pytest.mark.parametrize("style", STYLES)
def test_every_style_is_found_by_every_program(style: str) -> None:
    row = STYLES[style]
    files = {
        kind: row.file_name("Llama-3.2-1B", kind, owner="meta", important=important)
        for kind, important in (("F16", True), ("Q8_0", False), ("Q4_K_M", True), ("IQ2_XS", True))
    }
    projector = row.file_name("Llama-3.2-1B", "F16", role="mmproj-", owner="meta", important=True)
    listing = Listing(dict.fromkeys([*files.values(), projector], 1))
    assert findings(listing) == []
    by_tag = {choice.tag: choice for choice in choices(listing)}
    for kind, name in files.items():
        assert by_tag[kind].llama_cpp == name
        assert by_tag[kind].ollama == by_tag[kind].hub == by_tag[kind].lm_studio == (name,)
        assert by_tag[kind].projector == projector


def test_styles_are_those_of_the_publishers() -> None:
    named = {
        style: [
            row.file_name("Llama-3.2-1B", "F16", owner="meta-llama", important=False),
            row.file_name("Llama-3.2-1B", "IQ2_M", owner="meta-llama", important=True),
            row.file_name("Llama-3.2-1B", "Q8_0", role="mmproj-", owner="meta-llama", important=False),
        ]
        for style, row in STYLES.items()
    }
    assert named == {
        "plain": ["Llama-3.2-1B-F16.gguf", "Llama-3.2-1B-IQ2_M.gguf", "mmproj-Llama-3.2-1B-Q8_0.gguf"],
        "bartowski": [
            "meta-llama_Llama-3.2-1B-f16.gguf",
            "meta-llama_Llama-3.2-1B-IQ2_M.gguf",
            "mmproj-meta-llama_Llama-3.2-1B-Q8_0.gguf",
        ],
        "mradermacher": ["Llama-3.2-1B.F16.gguf", "Llama-3.2-1B.i1-IQ2_M.gguf", "Llama-3.2-1B.mmproj-Q8_0.gguf"],
    }


def run(*arguments: object, **variables: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "convert", *map(str, arguments)]
    environment = {**os.environ, **variables}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


def test_the_command_shows_who_takes_what_and_ends_with_nine_where_one_takes_another(tmp_path: Path) -> None:
    for name, file_type in (("BF16", 32), ("F16", 1)):
        write_gguf(tmp_path / f"m-{name}.gguf", "model", file_type)
    done = run("lint", tmp_path)
    assert done.returncode == 9
    assert "problem: the tag F16 means `m-F16.gguf`, and llama.cpp takes `m-BF16.gguf`" in done.stdout
    assert done.stdout.splitlines()[:3] == ["without a tag", "  llama.cpp  m-BF16.gguf", "  Ollama     one of 2"]
    assert json.loads(run("lint", tmp_path, "--json").stdout)["choices"][1]["llama_cpp"] == "m-BF16.gguf"
    assert run("lint", tmp_path / "none").returncode == 2


def test_a_repository_of_the_hub_is_listed_without_reading_its_files(tmp_path: Path) -> None:
    with hub_double() as hub:
        hub.repositories["me/x-GGUF"] = Repository(files={"m-Q8_0.gguf": "0" * 64, "README.md": "0" * 64})
        done = run("lint", "hf://me/x-GGUF", **hub.environment(tmp_path))
        assert done.returncode == 0, done.stderr
        assert "every program finds what it is asked for" in done.stdout
        assert all("/resolve/" not in request for request in hub.requests)
        assert run("lint", "hf://me/none", **hub.environment(tmp_path)).returncode == 6
