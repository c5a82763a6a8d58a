"""Some files of a plan by themselves: the same bytes, in as few reads as the disk allows."""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING

import pytest

import convert
from convert.plan import SplitRequest, packed, part
from convert.publish.turns import sparing_disk, sparing_time

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("sizes", "groups"),
    [
        ([16, 8, 5, 4, 6], [[0], [1, 4], [2, 3]]),
        ([4, 4], [[0], [1]]),
        ([3, 10, 3, 3], [[1], [0, 2, 3]]),
        ([7], [[0]]),
        ([], []),
    ],
)
def test_files_are_grouped_so_that_none_is_longer_than_the_longest(sizes: list[int], groups: list[list[int]]) -> None:
    assert packed(sizes) == groups


def test_the_parts_of_a_split_file_are_made_together(tiny_llama: Path, tmp_path: Path) -> None:
    wanted = convert.OutputRequest(tmp_path, types="f16,q8_0,q4_0", split=SplitRequest(max_tensors=12))
    plan = convert.plan_all(tiny_llama, wanted)
    assert [len(files) for files in plan.models] == [2, 2, 2]
    turns = sparing_disk(plan, range(6))
    assert turns.groups == ((0, 1), (2, 3, 4, 5))
    assert turns.nbytes == sum(output.nbytes for output in plan.models[0])
    assert sparing_time(plan, range(6)).groups == ((0, 1), (2, 3, 4, 5))
    assert sparing_time(plan, [3]).groups == ((3,),)


def test_a_part_of_a_plan_makes_the_files_that_the_whole_makes(tiny_llama: Path, tmp_path: Path) -> None:
    whole = convert.plan_all(tiny_llama, convert.OutputRequest(tmp_path / "whole", types="f16,q8_0,q4_k_m,q4_0"))
    parts = convert.plan_all(tiny_llama, convert.OutputRequest(tmp_path / "parts", types="f16,q8_0,q4_k_m,q4_0"))
    convert.carry_out(whole)
    for indices in ([2, 0], [3], [1]):
        some = part(parts, indices)
        assert [output.path for output in some.outputs] == [parts.outputs[index].path for index in indices]
        convert.carry_out(some)
    made = [
        {path.name: sha256(path.read_bytes()).hexdigest() for path in (tmp_path / place).iterdir()}
        for place in ("whole", "parts")
    ]
    assert made[0] == made[1]
