"""What a team does every week, as a file; and a lock of what came out, from which it is made again.

asked    what a command was asked for, as words
inputs   every file that it reads
lock     what was read, with what it was made, what came out
reproduce   makes that again, and compares
"""

from convert.recipe.asked import Asked, is_place
from convert.recipe.digests import FileDigest, file_digests
from convert.recipe.lock import (
    LOCK_FILE,
    Lock,
    LockedFile,
    LockedInput,
    Work,
    is_inside,
    lock_outputs,
    read_lock,
    work_of,
)
from convert.recipe.made_with import MadeWith, made_with
from convert.recipe.reproduce import MadeAgain, Reproduction, reproduce

__all__ = [
    "LOCK_FILE",
    "Asked",
    "FileDigest",
    "Lock",
    "LockedFile",
    "LockedInput",
    "MadeAgain",
    "MadeWith",
    "Reproduction",
    "Work",
    "file_digests",
    "is_inside",
    "is_place",
    "lock_outputs",
    "made_with",
    "read_lock",
    "reproduce",
    "work_of",
]
