"""The rows of the families that share much with others, for `family_checkpoints.py`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from family_rows_beyond import BEYOND
from family_rows_gpt_like import GPT_LIKE
from family_rows_llama_like import LLAMA_LIKE
from family_rows_own_code import OWN_CODE

if TYPE_CHECKING:
    from family_making import FamilyRow

MORE_ROWS: Final[tuple[FamilyRow, ...]] = (*LLAMA_LIKE, *GPT_LIKE, *BEYOND, *OWN_CODE)
