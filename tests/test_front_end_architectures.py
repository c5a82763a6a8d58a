"""What `convert inspect --architectures` lists is what there is, and README's table is made from it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Final

from click.testing import CliRunner
from front_end_checkpoints import FRONT_END_CHECKPOINTS

from convert.architecture import FAMILIES
from convert.cli import cli
from convert.llama_cpp.front_end import known_architectures
from convert.llama_cpp.front_end.architectures import MMPROJ_CLASSES, TESTED_MMPROJ, TESTED_TEXT, TEXT_CLASSES
from convert.llama_cpp.front_end.tree import class_names

if TYPE_CHECKING:
    from collections.abc import Iterable

    from convert.llama_cpp.front_end import KnownArchitecture

README: Final = Path(__file__).parent.parent / "README.md"
BEGIN, END = "<!-- architectures: made by tests/test_front_end_architectures.py -->\n", "<!-- end of architectures -->"


def test_the_classes_are_those_of_the_pinned_tree(reference_source: Path) -> None:
    assert {kind: set(names) for kind, names in class_names(reference_source).items()} == {
        "text": TEXT_CLASSES,
        "mmproj": MMPROJ_CLASSES,
    }


def test_what_is_called_tested_is_tested() -> None:
    assert set(FRONT_END_CHECKPOINTS) == TESTED_TEXT
    assert {name for name, row in FRONT_END_CHECKPOINTS.items() if row.has_mmproj} == TESTED_MMPROJ
    assert TESTED_TEXT <= TEXT_CLASSES
    assert TESTED_MMPROJ <= MMPROJ_CLASSES


def test_every_class_is_listed_with_whose_definition_it_has() -> None:
    known = {each.name: each for each in known_architectures()}
    native = {name for family in FAMILIES for name in family.hf_names}
    assert set(known) == native | TEXT_CLASSES | MMPROJ_CLASSES
    assert {name for name, each in known.items() if each.definition == "native"} == native
    assert known["Qwen2VLForConditionalGeneration"].files == ("text", "mmproj")
    assert known["Qwen2VLForConditionalGeneration"].tested == ("text", "mmproj")


def test_the_command_lists_them_as_a_table_and_as_json() -> None:
    table = CliRunner().invoke(cli, ["inspect", "--architectures"])
    assert table.exit_code == 0
    assert re.search(r"^LlamaForCausalLM +native +text +text *$", table.output, re.MULTILINE)
    listed = json.loads(CliRunner().invoke(cli, ["inspect", "--architectures", "--json"]).output)
    assert {"name": "AfmoeForCausalLM", "definition": "llama.cpp", "files": ["text"], "tested": ["text"]} in listed
    assert len(listed) == len(known_architectures())


def _table(known: Iterable[KnownArchitecture]) -> str:
    """Write README's table: classes by definition, what was tested first."""
    known = list(known)
    rows = {
        "native": [each.name for each in known if each.definition == "native"],
        "llama.cpp's, tested byte for byte": [
            each.name for each in known if each.definition != "native" and "text" in each.tested
        ],
        "llama.cpp's, not in the tests": [
            each.name for each in known if each.definition != "native" and "text" in each.files and not each.tested
        ],
        "mmproj, tested byte for byte": [each.name for each in known if "mmproj" in each.tested],
        "mmproj, not in the tests": [
            each.name for each in known if "mmproj" in each.files and "mmproj" not in each.tested
        ],
    }
    lines = ["| definition | classes |", "|---|---|"]
    lines += [f"| {kind} ({len(names)}) | {', '.join(names)} |" for kind, names in rows.items()]
    return "\n".join(lines) + "\n"


def test_the_readme_s_table_is_made_from_it(update_golden: bool) -> None:
    text = README.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    table, end, after = rest.partition(END)
    if update_golden:
        README.write_text(before + BEGIN + _table(known_architectures()) + end + after, encoding="utf-8")
    else:
        assert table == _table(known_architectures())
