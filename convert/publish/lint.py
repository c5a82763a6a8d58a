"""Who finds which file of a repository, and what no one finds: a line each, with the remedy."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from convert.gguf_file import read_gguf
from convert.hub import repository_files
from convert.publish.choosers import (
    hub_label,
    is_model_name,
    llama_cpp_model,
    llama_cpp_projector,
    ollama_models,
    split_count,
    tag_of,
)
from convert.publish.files import FileRole, grouped, label_of, role_of
from convert.shown import shown, shown_list

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

GB: Final = 10**9
# huggingface.co/docs/hub/storage-limits: a file, what is advised, entries of a folder.
_LARGEST, _ADVISED, _MOST_ENTRIES = 500 * GB, 200 * GB, 10_000
# common/hf-cache.cpp, is_valid_repo_id @ 0c1e570: each of `/.-` stands between letters, digits or `_`.
_LLAMA_CPP_NAME: Final = re.compile(r"\w+([.-]\w+)*/\w+([.-]\w+)*", re.ASCII)
_WORD_OF: Final = {FileRole.MMPROJ: "mmproj", FileRole.MTP: "mtp-", FileRole.IMPORTANCE: "imatrix"}


@dataclass(frozen=True, slots=True)
class Choice:
    """Which file each program takes. tag: of the repository's name; None where it is left out."""

    tag: str | None
    llama_cpp: str | None
    projector: str | None
    hub: tuple[str, ...]
    ollama: tuple[str, ...]
    lm_studio: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Finding:
    """Something to know. is_problem: some program does not run what it should. remedy: what to do."""

    message: str
    remedy: str
    is_problem: bool = True


@dataclass(frozen=True, slots=True)
class Listing:
    """A repository's files. repository: its name, where it is one. roles: what headers say, where they can be read."""

    sizes: Mapping[str, int]
    repository: str | None = None
    roles: Mapping[str, FileRole] = field(default_factory=dict)
    declared: Mapping[str, str] = field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        """All files, in the Hub's order."""
        return sorted(self.sizes)

    @property
    def models(self) -> list[str]:
        """The models, the first part of each: by their header, or else as llama.cpp takes a name."""
        firsts = [group[0] for group in grouped(name for name in self.names if name.lower().endswith(".gguf"))]
        return [name for name in firsts if self._is_model(name)]

    def _is_model(self, name: str) -> bool:
        return self.roles[name] is FileRole.MODEL if name in self.roles else is_model_name(name)


def list_directory(directory: Path) -> Listing:
    """List a directory as the repository that it would be; headers are read. Raises CheckpointError."""
    paths = [path for path in directory.rglob("*") if path.is_file() and not _is_hidden(path.relative_to(directory))]
    sizes = {path.relative_to(directory).as_posix(): path.stat().st_size for path in paths}
    headers = {name: read_gguf(directory / name) for name in sizes if name.lower().endswith(".gguf")}
    return Listing(
        sizes,
        roles={name: role_of(header) for name, header in headers.items()},
        declared={name: label_of("", header.metadata) for name, header in headers.items()},
    )


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def list_repository(name: str, revision: str | None = None) -> Listing:
    """List a repository of the Hub; nothing of the files is read. Raises OutputError."""
    return Listing(repository_files(name, revision), repository=name)


def choices(listing: Listing) -> list[Choice]:
    """Say for no tag, then for every one that a file carries, which file each program takes."""
    tags = list(dict.fromkeys(label for name in listing.models if (label := tag_of(name)) is not None))
    return [_choice(listing, tag) for tag in (None, *tags)]


def _choice(listing: Listing, tag: str | None) -> Choice:
    names = listing.names
    chosen = llama_cpp_model(names, tag)
    labelled = tuple(name for name in listing.models if tag is None or hub_label(name) == tag)
    return Choice(
        tag,
        chosen,
        None if chosen is None else llama_cpp_projector(names, chosen),
        labelled,
        tuple(name for name in ollama_models(names, tag) if name in listing.models),
        labelled,
    )


def findings(listing: Listing) -> list[Finding]:
    """Find what is not found, or found in place of another."""
    return [found for rule in _RULES for found in rule(listing)]


def _not_found(listing: Listing) -> Iterator[Finding]:
    if not listing.models:
        yield Finding("there is no GGUF model", "make one, or name it so that its end is `.gguf` in small letters")
    for name in listing.models:
        if not is_model_name(name):
            why = "it does not end in `.gguf`" if not name.endswith(".gguf") else "its name is that of a sidecar"
            yield Finding(f"no program finds {shown(name)}: {why}", "call it MODEL-TYPE.gguf")
        elif (label := tag_of(name)) is None:
            yield Finding(f"{shown(name)} has no type in its name, so that no tag finds it", "call it MODEL-TYPE.gguf")
        elif (declared := listing.declared.get(name, label)) != label and not _is_kind_of(label, declared):
            message = f"{shown(name)} is {declared} by its metadata, and {label} by its name"
            yield Finding(message, "call it by its type, unless the mix has another name on purpose", is_problem=False)


def _is_kind_of(label: str, declared: str) -> bool:
    """Whether a publisher's label, such as `UD-Q4_K_XL`, is of a type's family; of an unknown type it may be."""
    return declared == "unknown" or label.removeprefix("UD-").startswith(f"{declared.rpartition('_')[0]}_")


def _taken_for_models(listing: Listing) -> Iterator[Finding]:
    for name, role in listing.roles.items():
        word = _WORD_OF.get(role)
        if word is not None and is_model_name(name):
            yield Finding(f"{shown(name)} is taken for a model, and is none", f"put `{word.rstrip('-')}` into its name")


def _ambiguous(listing: Listing) -> Iterator[Finding]:
    names = listing.names
    by_label: dict[str, list[str]] = {}
    for name in listing.models:
        if (label := tag_of(name)) is not None:
            by_label.setdefault(label, []).append(name)
    for label, named in by_label.items():
        taken = llama_cpp_model(names, label)
        if len(named) > 1:
            message = f"the tag {label} names {shown_list(named)}; llama.cpp takes {shown(taken)}"
            yield Finding(message, "keep one of them here, and move the other to a repository of its own")
        elif taken is not None and taken != named[0]:
            message = f"the tag {label} means {shown(named[0])}, and llama.cpp takes {shown(taken)}, which has it too"
            remedy = f"name the file: `-hf REPO --hf-file {named[0]}`; or keep one of them elsewhere"
            yield Finding(message, remedy)
        elif taken is None:
            message = f"llama.cpp does not find {shown(named[0])} by its tag {label}: no `.` or `-` follows it"
            yield Finding(message, "call it MODEL-TYPE.gguf")


def _projectors(listing: Listing) -> Iterator[Finding]:
    sidecars = [name for name in listing.names if name.endswith(".gguf") and "mmproj" in name]
    lost = [name for name in listing.models if llama_cpp_projector(sidecars, name) is None] if sidecars else []
    for name in lost:
        message = f"{shown(name)} has no projector in its folder or above it: {shown_list(sidecars)} lies elsewhere"
        yield Finding(message, "put the projector into the repository's root")


def _splits(listing: Listing) -> Iterator[Finding]:
    for group in grouped(name for name in listing.names if name.endswith(".gguf")):
        count = split_count(group[0])
        if count > 1 and len(group) != count:
            yield Finding(f"of the {count} parts of {shown(group[0])} there are {len(group)}", "upload the others too")
        elif count > 1 and is_model_name(group[0]):
            nbytes = sum(listing.sizes[name] for name in group)
            whole = (
                "put it together (`convert merge`), and upload it whole"
                if nbytes <= _LARGEST
                else "offer a smaller type too"
            )
            message = f"Ollama refuses {shown(group[0])} from the Hub: it is split"
            yield Finding(message, f"{whole}, for those who use Ollama", is_problem=False)


def _limits(listing: Listing) -> Iterator[Finding]:
    for name, nbytes in listing.sizes.items():
        if nbytes > _LARGEST:
            yield Finding(
                f"{shown(name)} has {nbytes / GB:.0f} GB, and the Hub takes 500", "split it (`convert split`)"
            )
        elif nbytes > _ADVISED:
            message = f"{shown(name)} has {nbytes / GB:.0f} GB, and the Hub advises at most 200"
            yield Finding(message, "split it (`convert split`)", is_problem=False)
    for folder, count in Counter(name.rpartition("/")[0] for name in listing.names).items():
        if count > _MOST_ENTRIES:
            place = shown(folder) if folder else "the root"
            yield Finding(f"{place} has {count} files, and the Hub takes 10000 in a folder", "use folders")


def _others(listing: Listing) -> Iterator[Finding]:
    if "preset.ini" in listing.sizes:
        yield Finding("llama.cpp reads `preset.ini`, and then no model of this repository", "take it away")
    name = listing.repository
    if name is not None and not _LLAMA_CPP_NAME.fullmatch(name):
        yield Finding(f"llama.cpp takes {shown(name)} for no repository's name", "rename it: one `-` or `.` at a time")


_RULES: Final = (_not_found, _taken_for_models, _ambiguous, _projectors, _splits, _limits, _others)
