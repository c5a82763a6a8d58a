"""The Hugging Face Hub, by its own client, which is imported only here.

repository  token, name, permission, privacy, what is there already; a directory in one commit; what errors mean
download    a revision pinned to its commit, the files it has, and where each is read from
"""

from convert.hub.repository import HubRepository, check_repository_name, prepare_repository, upload_directory

__all__ = [
    "HubRepository",
    "check_repository_name",
    "prepare_repository",
    "upload_directory",
]
