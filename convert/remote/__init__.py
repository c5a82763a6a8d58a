"""Files that are not on this disk, as if they were: their bytes are read by ranges, and never lie here.

    address ── address ──▶ what is meant      hf://USER/MODEL@REVISION/FILE, s3://…, gs://…, https://…
            ── snapshot ─▶ a directory here   small files as they are, a *stand-in* for each file of weights
    stand-in ─ open_remote ─▶ RemoteFile      http_file (the Hub, https), fsspec_file (whatever fsspec knows)
    ranges  ── ahead ────▶ bytes              several in flight, in bounded memory

A stand-in is a small text that says where a file's bytes are and which they are, as git-lfs has them. It counts only in
the cache directory that this room fills, so a checkpoint from elsewhere cannot send anyone anywhere; to every program
that opens it otherwise it is no file of weights. A path is all that is ever passed on, so a plan pickles, and whoever
carries it out finds the bytes: through `checkpoint/` there is one door to them.
"""

from convert.remote.ahead import ReadAhead
from convert.remote.located import located, require_here
from convert.remote.remote_file import RemoteFile, RemoteStream, StoppedError, at_most, in_parallel, received_nbytes
from convert.remote.small import bring_small, brought
from convert.remote.stand_in import hub_name, is_stand_in, open_remote, said

__all__ = [
    "ReadAhead",
    "RemoteFile",
    "RemoteStream",
    "StoppedError",
    "at_most",
    "bring_small",
    "brought",
    "hub_name",
    "in_parallel",
    "is_stand_in",
    "located",
    "open_remote",
    "received_nbytes",
    "require_here",
    "said",
]
