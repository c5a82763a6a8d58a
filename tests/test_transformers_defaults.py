"""The tables of transformers' defaults are what the installed transformers gives."""

from __future__ import annotations

from generate_transformers_defaults import OUTPUT, generate


def test_the_tables_are_what_the_installed_transformers_gives() -> None:
    assert OUTPUT.read_text() == generate()
