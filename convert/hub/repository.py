"""Directories to the Hugging Face Hub, by its own client; what can go wrong is said before work where it can be known.

    prepare_repository   token, name, permission, privacy, what is there already     seconds, before a conversion
    upload_directory     one commit of exactly the named files

`upload_folder` resumes in every version of the client: a file whose content the Hub has already is not sent again, and
with hf_xet (on by default) no chunk of one; the files appear in one commit. `upload_large_folder`, which kept a journal
in the folder and made a commit every few files, is gone from version 2.
"""

from __future__ import annotations

import glob
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from convert.errors import OutputError, Remedy, UsageError
from convert.shown import shown, shown_list

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator
    from pathlib import Path

_LOGIN: Final = (
    "log in with `hf auth login`, or set HF_TOKEN to a token that may write (huggingface.co/settings/tokens)"
)
AGAIN: Final = "run the same command again: what is complete, here and there, is kept"
_WEIGHTS: Final = (".safetensors", ".bin", ".pt", ".pth", ".gguf", ".h5", ".msgpack", ".index.json")
# What the Hub's own words ask for, whatever the status that comes with them -> what to do.
_STORAGE: Final = "free some (huggingface.co/settings/storage), take another plan, or use a public repository"
_HUB_SAYS: Final = {
    "storage": _STORAGE,
    "quota": _STORAGE,
    "payment": "see huggingface.co/settings/billing",
    "rate limit": "wait, then run the same command again",
    "too large": "write smaller shards",
    "email": "confirm the e-mail address of the account: huggingface.co/settings/account",
    "gated": "accept the conditions on the repository's page first",
    "two-factor": "the organization asks for two-factor authentication: huggingface.co/settings/authentication",
}
_BAD_REQUEST, _UNAUTHORIZED, _FORBIDDEN, _NOT_FOUND, _TOO_MANY = 400, 401, 403, 404, 429


@dataclass(frozen=True, slots=True)
class HubRepository:
    """A model repository that this user may write to. name: `USER/NAME`; url: where people find it."""

    name: str
    url: str


def check_repository_name(name: str) -> None:
    """Raise UsageError for what cannot be a repository's name: `NAME` or `USER/NAME`. Asks no one."""
    from huggingface_hub.errors import HFValidationError  # noqa: PLC0415
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # noqa: PLC0415

    try:
        validate_repo_id(name)
    except HFValidationError as error:
        reason = str(error).splitlines()[0]
        raise UsageError(f"{shown(name)} cannot be a repository's name: {reason}", hint="write USER/NAME") from error


def prepare_repository(name: str, *, private: bool, files: Collection[str], card: str | None = None) -> HubRepository:
    """Find or create a model repository, and see that it can take these files.

    files: what is going to be uploaded. card: the README.md among them, which the Hub may refuse. private: it must be
    private; by default it is as the owner's settings say.
    Raises UsageError for a bad name; OutputError without a token or permission, where nothing answers, for a repository
    that is public against the wish, or that has other weights in it.
    """
    check_repository_name(name)
    with hub_errors(f"the repository {shown(name)} cannot be prepared"):
        api = hub_api()
        _check_token(api)
        if card is not None:
            _check_card(api, card)
        created = api.create_repo(name, private=True if private else None, exist_ok=True)
        _check_write(api, created.repo_id)
        info = api.model_info(created.repo_id)
    if private and info.private is False:
        raise OutputError(
            f"the repository {shown(created.repo_id)} exists, and is public",
            remedies=(Remedy.ALLOW_PUBLIC,),
        )
    others = [file.rfilename for file in info.siblings or () if file.rfilename.endswith(_WEIGHTS)]
    others = sorted(set(others) - set(files))
    if others:
        raise OutputError(
            f"the repository {shown(created.repo_id)} has other weights in it: {shown_list(others)}",
            hint="choose another repository, or delete these from it",
        )
    return HubRepository(created.repo_id, str(created))


def owned_name(name: str) -> str:
    """Give a repository's name whole: one without an owner is the user's. Raises OutputError without a token."""
    if "/" in name:
        return name
    with hub_errors(f"whose {shown(name)} is cannot be told"):
        api = hub_api()
        return f"{api.whoami()['name']}/{name}"


def repository_files(name: str, revision: str | None = None) -> dict[str, int]:
    """List a model repository's files with their lengths; nothing of them is read.

    Raises UsageError for a bad name; OutputError for what the Hub refuses, or where nothing answers.
    """
    check_repository_name(name)
    with hub_errors(f"the files of {shown(name)} cannot be listed"):
        info = hub_api().model_info(name, revision=revision, files_metadata=True)
    return {file.rfilename: file.size or 0 for file in info.siblings or ()}


def upload_directory(repository: HubRepository, directory: Path, files: Collection[str], *, message: str) -> str:
    """Upload the named files of a directory in one commit, and return the commit's address.

    What the Hub has already is not sent again, so an interrupted upload is resumed by calling this again.
    Raises OutputError.
    """
    with hub_errors(f"`{directory}` cannot be uploaded to {shown(repository.name)}", hint=AGAIN):
        commit = hub_api().upload_folder(
            repo_id=repository.name,
            folder_path=directory,
            allow_patterns=[glob.escape(name) for name in files],
            commit_message=message,
        )
    return str(commit.commit_url)


def hub_api() -> Any:  # noqa: ANN401 - the client is imported only when used
    """Make the client's interface, which shows progress only on a terminal."""
    from huggingface_hub import HfApi  # noqa: PLC0415
    from huggingface_hub.utils import disable_progress_bars  # type: ignore[attr-defined]  # noqa: PLC0415

    if not sys.stderr.isatty():
        disable_progress_bars()
    return HfApi(library_name=None)


@contextmanager
def without_bars() -> Iterator[None]:
    """Let uploads that begin meanwhile show no bars of the client's own, on a terminal that shows others."""
    from huggingface_hub.utils import (  # type: ignore[attr-defined]  # noqa: PLC0415
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )

    if are_progress_bars_disabled():
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()


def _check_token(api: Any) -> None:  # noqa: ANN401
    from huggingface_hub import get_token  # noqa: PLC0415

    if (token := get_token()) is None:
        raise OutputError("there is no token for the Hugging Face Hub", hint=_LOGIN)
    if odd := [letter for letter in token if not ("!" <= letter <= "~")]:  # a page shows it shortened, `hf_ab…yz`
        said = f"the token for the Hugging Face Hub has a {shown(odd[0])} in it, which no token has"
        raise OutputError(said, hint=f"copy it whole; {_LOGIN}")
    role = ((api.whoami().get("auth") or {}).get("accessToken") or {}).get("role")
    if role == "read":
        raise OutputError("the token for the Hugging Face Hub may only read", hint=_LOGIN)


def _check_card(api: Any, card: str) -> None:  # noqa: ANN401
    """Ask the Hub whether it takes a card's front matter. Raises ValueError if not, as the client does at an upload."""
    from huggingface_hub.utils import (  # type: ignore[attr-defined]  # noqa: PLC0415
        build_hf_headers,
        get_session,
        hf_raise_for_status,
    )

    question = {"content": card, "repoType": "model"}
    answer = get_session().post(f"{api.endpoint}/api/validate-yaml", json=question, headers=build_hf_headers())
    if answer.status_code == _BAD_REQUEST:
        said = " ".join(f"- {error.get('message')}" for error in answer.json().get("errors", []))
        raise ValueError(f"Invalid metadata in README.md. {said}")
    hf_raise_for_status(answer)


def _check_write(api: Any, name: str) -> None:  # noqa: ANN401
    try:
        api.auth_check(name, write=True)
    except TypeError:  # before huggingface_hub 1.0 it cannot ask; the upload itself will tell
        return


@contextmanager
def hub_errors(what: str, *, hint: str | None = None) -> Iterator[None]:
    """Say what the client's exceptions mean."""
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled  # noqa: PLC0415

    transport: Any = HfHubHTTPError.__bases__[0]  # of the HTTP library in use, which changed twice
    try:
        yield
    except LocalTokenNotFoundError as error:
        raise OutputError(f"{what}: there is no token", hint=_LOGIN) from error
    except HfHubHTTPError as error:
        raise _refused(what, error, hint) from error
    except OfflineModeIsEnabled as error:
        raise OutputError(f"{what}: HF_HUB_OFFLINE is set", hint="unset it to upload") from error
    except (transport, OSError) as error:
        raise _unreached(what, error) from error
    except ValueError as error:
        is_card = "README.md" in str(error)  # whose front matter the Hub does not take
        hint = "mend the checkpoint's README.md" if is_card else hint
        raise OutputError(f"{what}: {_one_line(error)}", hint=hint) from error
    except RuntimeError as error:  # an upload's thread, around what it met
        cause = error.__cause__ or error
        if isinstance(cause, HfHubHTTPError):
            raise _refused(what, cause, hint) from error
        raise _unreached(what, cause) from error


def _unreached(what: str, error: BaseException) -> OutputError:
    from huggingface_hub import constants  # noqa: PLC0415

    host = urlsplit(constants.ENDPOINT).netloc or constants.ENDPOINT
    return OutputError(f"{what}: {host}: {_one_line(error)}", hint=f"is {host} reached from here? {AGAIN}")


def _refused(what: str, error: Any, hint: str | None) -> OutputError:  # noqa: ANN401
    status = error.response.status_code
    said = getattr(error, "server_message", None)
    detail = f": {_one_line(said)}" if said else ""
    if told := next((told for words, told in _HUB_SAYS.items() if words in detail.lower()), None):
        return OutputError(f"{what}: the Hub refuses it ({status}){detail}", hint=told)
    if status == _UNAUTHORIZED:
        return OutputError(f"{what}: the Hub does not accept the token (401){detail}", hint=_LOGIN)
    if status == _FORBIDDEN:
        wanted = "the token needs write permission for this owner's repositories; see huggingface.co/settings/tokens"
        return OutputError(f"{what}: the token may not do this (403){detail}", hint=wanted)
    if status == _NOT_FOUND:
        return OutputError(f"{what}: there is no such owner or repository (404){detail}", hint="write USER/NAME")
    if status == _TOO_MANY:
        return OutputError(f"{what}: too many requests (429){detail}", hint="wait, then run the same command again")
    return OutputError(f"{what}: the Hub answered {status}{detail}", hint=hint or AGAIN)


def _one_line(error: object) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return "".join(letter if letter.isprintable() else " " for letter in text)[:300]
