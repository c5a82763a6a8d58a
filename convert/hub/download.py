"""A model on the Hub as a list of files at one commit; each refusal in its own words.

A revision (branch, tag, `refs/pr/N`, commit) is pinned to its commit first, and everything is asked for at that commit.
The bytes are another room's to read: it gets addresses, the client's own session and its headers from here.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from convert.errors import CheckpointError
from convert.shown import shown

if TYPE_CHECKING:
    from collections.abc import Mapping

TIMEOUT_S: Final = 30.0  # without a byte


@dataclass(frozen=True, slots=True)
class HubFile:
    """A file of a repository: its path there, its length, and what the Hub calls its content: sha256, or git's hash."""

    path: str
    nbytes: int
    content: str


@dataclass(frozen=True, slots=True)
class HubRevision:
    """A model repository at a commit. name: as the Hub spells it."""

    name: str
    commit: str
    files: tuple[HubFile, ...]


def pin(name: str, revision: str | None = None) -> HubRevision:
    """Pin a revision, by default the main branch, to its commit, and list the files there.

    Raises CheckpointError, for each refusal with what to do; OSError, as the client does, where nothing answers or a
    server is busy: `status_of` tells which.
    """
    from huggingface_hub import HfApi  # noqa: PLC0415 - only when used
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled  # noqa: PLC0415

    try:
        info = HfApi(library_name=None).model_info(name, revision=revision, files_metadata=True, timeout=TIMEOUT_S)
    except HFValidationError as error:
        raise CheckpointError(f"{shown(name)} cannot be a model of the Hub: {_first_line(error)}") from error
    except OfflineModeIsEnabled as error:
        raise offline(name) from error
    except HfHubHTTPError as error:
        if (refused := refusal(error.response, name, revision)) is None:
            raise
        raise refused from error
    files = (
        HubFile(
            file.rfilename,
            file.size or 0,
            str(file.lfs.sha256 if file.lfs else file.blob_id),
        )
        for file in info.siblings or ()
    )
    return HubRevision(info.id, str(info.sha), tuple(files))


def address_of(name: str, commit: str, path: str) -> str:
    """Return where a file of a repository is asked for."""
    from huggingface_hub import hf_hub_url  # noqa: PLC0415

    return hf_hub_url(name, path, revision=commit)


def session() -> Any:  # noqa: ANN401 - of the HTTP library in use, which changed twice
    """Return the client's own HTTP session: proxies, certificates and hooks are as the user has set them."""
    from huggingface_hub.utils import get_session  # type: ignore[attr-defined]  # noqa: PLC0415

    return get_session()


def transport_errors() -> tuple[type[BaseException], ...]:
    """Name what the session raises where a connection fails."""
    from huggingface_hub.errors import HfHubHTTPError  # noqa: PLC0415

    return (HfHubHTTPError.__bases__[0], OSError)


def hub_headers() -> Mapping[str, str]:
    """Return the headers of a request to the Hub, the user's token among them; they are for no other host."""
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]  # noqa: PLC0415

    return {str(key): str(value) for key, value in build_hf_headers().items()}


def offline(name: str) -> CheckpointError:
    """Make the error for a client that was told to ask no one."""
    from huggingface_hub import try_to_load_from_cache  # noqa: PLC0415

    config = try_to_load_from_cache(name, "config.json") if name.count("/") == 1 else None
    cached = isinstance(config, str)
    hint = f"it is in the Hub's cache: name {shown(Path(str(config)).parent)}" if cached else "unset it, or name a path"
    return CheckpointError(f"{shown(name)} cannot be read from the Hub: HF_HUB_OFFLINE is set", hint=hint)


def unreached(name: str, error: BaseException) -> CheckpointError:
    """Make the error for a Hub that does not answer."""
    from huggingface_hub import constants  # noqa: PLC0415

    return CheckpointError(
        f"{shown(name)} cannot be read from the Hub: {constants.ENDPOINT}: {_first_line(error)}",
        hint="is there a network, and does it lead there (HF_ENDPOINT, proxies)? if not, name a directory",
    )


def refusal(answer: Any, name: str, revision: str | None) -> CheckpointError | None:  # noqa: ANN401
    """Say what the Hub's refusal means; None for one that may pass: too many requests, a server's failure.

    answer: with `status_code` and `headers`.
    """
    from huggingface_hub import constants, get_token  # noqa: PLC0415

    code, status = answer.headers.get("X-Error-Code"), answer.status_code
    if status in _PASSING or status >= _SERVER:
        return None
    has_token, page = get_token() is not None, f"{constants.ENDPOINT}/{name}"
    if not code or code not in _WORDS:
        code = _BY_STATUS.get((status, has_token), "")
    said, hint = _WORDS[code][has_token]
    facts = {"name": shown(name), "revision": shown(revision or "main"), "status": status, "page": page}
    return CheckpointError(said.format_map(facts), hint=hint.format_map(facts))


# What the Hub calls a refusal → what to say without a token, and with one.
_LOGIN: Final = "log in with `hf auth login`, or set HF_TOKEN to a token that may read it"
_GONE: Final = ("a file of {name} is not there any more ({status})", "run the same command again")
_NO_REVISION: Final = (
    "{name} has no revision {revision} ({status})",
    "a branch, a tag or a commit: see {page}/commits",
)
_NOT_ALLOWED: Final = (
    "the token may not read {name} ({status})",
    "a fine-grained token needs read access to it: huggingface.co/settings/tokens",
)
_REFUSED: Final = ("the Hub refuses {name} ({status})", "see {page}")
_WORDS: Final = {
    "GatedRepo": (
        (
            "{name} is gated ({status}), and there is no token",
            f"accept its conditions on {{page}}, then {_LOGIN}",
        ),
        (
            "{name} is gated ({status}): the token's account has no access",
            "accept its conditions on {page}, with that account",
        ),
    ),
    "RevisionNotFound": (_NO_REVISION, _NO_REVISION),
    "EntryNotFound": (_GONE, _GONE),
    "RepoNotFound": (
        (
            "the Hub has no model {name}, or it is private: there is no token ({status})",
            f"check the name, USER/MODEL; for a private one, {_LOGIN}",
        ),
        (
            "the Hub has no model {name} that this token may see ({status})",
            "check the name, USER/MODEL, and whose token it is: `hf auth whoami`",
        ),
    ),
    "a token": (_REFUSED, ("the Hub does not accept the token ({status}), asked for {name}", _LOGIN)),
    "permission": (_NOT_ALLOWED, _NOT_ALLOWED),
    "": (_REFUSED, _REFUSED),
}
# Where it says no more than a status; and whether there is a token.
_BY_STATUS: Final = {
    (401, False): "RepoNotFound",
    (401, True): "a token",
    (403, False): "permission",
    (403, True): "permission",
    (404, False): "RepoNotFound",
    (404, True): "RepoNotFound",
}
_SERVER: Final = 500
_PASSING: Final = frozenset({408, 425, 429})


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
