"""Files uploaded one by one as they become ready, and made visible together by one commit.

Until the commit the Hub keeps a large file as an object without a name. It is asked for one by its sha256 before it is
sent, so that a run after an interruption sends nothing twice, and needs no local file for what is there.
Source: huggingface_hub 2.4, HfApi.preupload_lfs_files; git-lfs, docs/api/batch.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from convert.hub.repository import AGAIN, HubRepository, hub_api, hub_errors
from convert.shown import shown

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class UploadedFile:
    """A file that the Hub has. name: in the repository. sent: whether it went over the line now."""

    name: str
    sha256: str
    nbytes: int
    sent: bool = True


class HubCommit:
    """A commit being made; used by one thread at a time."""

    def __init__(self, repository: HubRepository) -> None:
        self._repository = repository
        self._api = hub_api()
        self._operations: list[Any] = []

    def upload(self, path: Path, name: str) -> UploadedFile:
        """Upload a file, unless the Hub has its content already, and make it part of the commit.

        Raises OutputError.
        """
        from huggingface_hub import CommitOperationAdd  # noqa: PLC0415 - only when used

        with hub_errors(f"{shown(name)} cannot be uploaded to {shown(self._repository.name)}", hint=AGAIN):
            operation = CommitOperationAdd(name, path)
            digest, nbytes = operation.upload_info.sha256.hex(), operation.upload_info.size
            is_there = self.has(digest, nbytes)
            # The Hub would be asked, and a .gitignore there, or a file that is small, keeps it from being sent at all.
            operation._upload_mode = "lfs"  # noqa: SLF001
            if not is_there:
                self._api.preupload_lfs_files(self._repository.name, [operation], free_memory=False)
        if is_there:
            return self.take(UploadedFile(name, digest, nbytes, sent=False))
        self._operations.append(operation)
        return UploadedFile(name, digest, nbytes)

    def has(self, sha256: str, nbytes: int) -> bool:
        """Ask whether the Hub keeps a large file of that content already. Raises OutputError."""
        from huggingface_hub.lfs import UploadInfo, post_lfs_batch_info  # noqa: PLC0415

        asked = UploadInfo(size=nbytes, sample=b"", sha256=bytes.fromhex(sha256))
        with hub_errors(f"{shown(self._repository.name)} cannot be asked what it has", hint=AGAIN):
            answers, errors, *_ = post_lfs_batch_info(  # two of them before version 1
                [asked], token=None, repo_type="model", repo_id=self._repository.name, endpoint=self._api.endpoint
            )
        return not errors and bool(answers) and answers[0].get("actions") is None

    def take(self, file: UploadedFile) -> UploadedFile:
        """Make a file that the Hub has already a part of the commit; none is needed here."""
        from huggingface_hub import CommitOperationAdd  # noqa: PLC0415
        from huggingface_hub.lfs import UploadInfo  # noqa: PLC0415

        # As the client leaves it after an upload with `free_memory`: no content, and all that a commit names.
        operation = CommitOperationAdd(file.name, b"")
        operation.upload_info = UploadInfo(size=file.nbytes, sample=b"", sha256=bytes.fromhex(file.sha256))
        operation._upload_mode, operation._is_uploaded = "lfs", True  # noqa: SLF001
        self._operations.append(operation)
        return file

    def add(self, name: str, data: bytes) -> None:
        """Make a small file part of the commit, in which it travels."""
        from huggingface_hub import CommitOperationAdd  # noqa: PLC0415

        self._operations.append(CommitOperationAdd(name, data))

    def finish(self, message: str) -> str:
        """Make everything visible at once, and return the commit's address. Raises OutputError."""
        with hub_errors(f"{shown(self._repository.name)} cannot take the commit", hint=AGAIN):
            taken = [operation.path_in_repo for operation in self._operations if operation._upload_mode == "lfs"]  # noqa: SLF001
            found = self._api.get_paths_info(self._repository.name, taken) if taken else []
            there = {info.path: info.lfs.sha256 for info in found if getattr(info, "lfs", None)}
            changed = [
                each for each in self._operations if there.get(each.path_in_repo) != each.upload_info.sha256.hex()
            ]
            commit = self._api.create_commit(self._repository.name, changed, commit_message=message)
        return str(commit.commit_url)
