"""A file in whatever fsspec knows: S3, Google Cloud Storage, Azure …, each by a package of its own."""

from __future__ import annotations

import threading
from typing import Any, Final

from convert.errors import CheckpointError, UnsupportedError
from convert.remote.remote_file import MAX_TRIES, changed, received, request, wait

# What stores call a version of a content, the first that one has.
_NAMES: Final = (
    "ETag",
    "etag",
    "md5Hash",
    "crc32c",
    "content_md5",
    "LastModified",
    "last_modified",
    "updated",
    "mtime",
)


class FsspecFile:
    """See RemoteFile. content: as `content_of` tells it."""

    def __init__(self, address: str, nbytes: int, content: str = "") -> None:
        self.address: Final = address
        self.nbytes: Final = nbytes
        self._content: Final = content
        self._lock: Final = threading.Lock()
        self._opened: tuple[Any, str] | None = None

    def read_into(self, position: int, out: memoryview, stop: threading.Event | None = None) -> None:
        system, path = self._system()
        for n_failures in range(1, MAX_TRIES + 1):
            try:
                with request(stop):
                    data = system.cat_file(path, start=position, end=position + len(out))
                break
            except (FileNotFoundError, PermissionError) as error:
                raise refused(self.address, error) from error
            except Exception as error:
                if n_failures == MAX_TRIES:
                    raise refused(self.address, error) from error
                wait(error, n_failures, stop)
        if len(data) != len(out):
            raise changed(self.address, f"it ends at byte {position + len(data)}, it had {self.nbytes}")
        out[:] = data
        received(len(data))

    def check(self) -> None:
        """Ask once more which content it has: ranges of a store's file do not tell."""
        system, path = self._system()
        try:
            system.invalidate_cache()
            info = system.info(path)
        except Exception as error:
            raise refused(self.address, error) from error
        if (info["size"], content_of(info)) != (self.nbytes, self._content):
            raise changed(self.address, f"it is `{content_of(info)}` of {info['size']} bytes, it was `{self._content}`")

    def _system(self) -> tuple[Any, str]:
        with self._lock:
            if self._opened is None:
                self._opened = file_system(self.address)
            return self._opened


def file_system(address: str) -> tuple[Any, str]:
    """Open the store that an address is in, and give the address's path there.

    Raises UnsupportedError where the package for such a store is not installed; CheckpointError for other refusals.
    """
    try:
        from fsspec.core import url_to_fs  # noqa: PLC0415 - only when used

        system, path = url_to_fs(address)
    except ImportError as error:
        raise UnsupportedError(
            f"`{address}` cannot be read: {error}", hint="`pip install 'gguf-convert[remote]'` brings what is needed"
        ) from error
    except ValueError as error:
        raise UnsupportedError(f"`{address}` cannot be read: {error}") from error
    return system, path


def content_of(info: dict[str, Any]) -> str:
    """Return what a store calls the content that a file has now."""
    return str(next((info[name] for name in _NAMES if info.get(name)), "")).strip('"')


def refused(address: str, error: BaseException) -> CheckpointError:
    """Make the error for what a store does not give."""
    said = " ".join(str(error).split())[:200] or type(error).__name__
    if isinstance(error, FileNotFoundError):
        return CheckpointError(f"`{address}` is not there")
    hint = "are the store's keys set, as its own programs want them (for S3: AWS_ACCESS_KEY_ID, AWS_PROFILE …)?"
    return CheckpointError(f"`{address}` cannot be read: {said}", hint=hint)
