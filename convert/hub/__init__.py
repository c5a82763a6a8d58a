"""The Hugging Face Hub, by its own client, which is imported only here.

repository  token, name, permission, privacy, what is there already; a directory in one commit; what errors mean
download    a revision pinned to its commit, the files it has, and where each is read from
commit      files uploaded one by one as they become ready, and made visible together by one commit
"""

from convert.hub.commit import HubCommit, UploadedFile
from convert.hub.repository import (
    HubRepository,
    check_repository_name,
    owned_name,
    prepare_repository,
    repository_files,
    upload_directory,
    without_bars,
)

__all__ = [
    "HubCommit",
    "HubRepository",
    "UploadedFile",
    "check_repository_name",
    "owned_name",
    "prepare_repository",
    "repository_files",
    "upload_directory",
    "without_bars",
]
