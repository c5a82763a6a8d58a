"""README.md of a repository of GGUF files: for someone who must choose one, then run it.

What its author adds between the two marks is kept when the card is written again; all else is made anew.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from shlex import quote
from typing import TYPE_CHECKING, Any, Final

import yaml
from gguf import Keys

from convert.authorship import read_front_matter
from convert.errors import OutputError, Remedy
from convert.llama_cpp.pin import COMMIT, GIT_URL
from convert.memory.running import BATCH, PROGRAM_NBYTES, memory_use
from convert.publish.commands import how_to_run
from convert.publish.conversation import prompt_format
from convert.publish.files import FileRole
from convert.publish.purposes import purpose
from convert.publish.source import Source
from convert.recipe import LOCK_FILE, is_inside, is_place
from convert.shown import shown

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    from convert.publish.files import DescribedDirectory, DescribedFile
    from convert.recipe import Lock

CARD: Final = "README.md"
REPORT: Final = "report.md"  # tables of measured figures; shown as they are
_FIRST: Final = "<!-- your own words, kept when this card is written again -->"
_LAST: Final = "<!-- end of your own words -->"
_KEPT: Final = re.compile(re.escape(_FIRST) + r"\n(.*?)" + re.escape(_LAST), re.DOTALL)
_MADE_FROM: Final = re.compile(r"^Made from .*/tree/([0-9a-f]{40})\)\.$", re.MULTILINE)
# Of the source's card: about its weights, or said anew here.
_LEFT_OUT: Final = ("base_model", "base_model_relation", "quantized_by", "library_name", "model-index", "widget")
_LONGEST_NAME: Final = 100  # characters
_HUB: Final = "https://huggingface.co"


@dataclass(frozen=True, slots=True)
class CardFacts:
    """What a card is written from.

    source: what the files were made from. repository: where they will be, `USER/NAME-GGUF`. sums: sha256 by name.
    made_here: whether the files are known to be ours. measured: a report's tables, as Markdown. lock: how they came to
    be.
    """

    directory: DescribedDirectory
    source: Source = field(default_factory=Source)
    repository: str | None = None
    sums: Mapping[str, str] = field(default_factory=dict)
    made_here: bool = False
    measured: str | None = None
    lock: Lock | None = None

    def with_sums(self, sums: Mapping[str, str]) -> CardFacts:
        """Add the checksums."""
        return replace(self, sums=sums)

    @property
    def model(self) -> DescribedFile:
        """The model that speaks for all types."""
        return self.directory.models[0]

    @property
    def name(self) -> str:
        """What people call the model."""
        values = self.model.values
        named = values.get(Keys.General.NAME) or values.get(Keys.General.BASENAME)
        own = self.source.repository.rpartition("/")[2] if self.source.repository else named or "model"
        return " ".join(str(own).split())[:_LONGEST_NAME]


@dataclass(frozen=True, slots=True)
class EarlierCard:
    """What of a card that is there goes on to be true. kept: an author's words; source: where it names no other."""

    kept: str | None = None
    source: Source = field(default_factory=Source)
    made_here: bool = False


def read_earlier(path: Path, *, force: bool = False) -> EarlierCard:
    """Read the card that is there, if one is.

    Raises OutputError for a README.md that was not written here, unless `force`; CheckpointError for broken YAML in it.
    """
    if not path.exists():
        return EarlierCard()
    try:
        text = path.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError as error:
        raise OutputError(f"{shown(path)} is there already, and cannot be read: {error.strerror}") from error
    found = _KEPT.search(text)
    if found is None and not force:
        raise OutputError(
            f"{shown(path)} is there already, and was not written by this command",
            hint=f"what is to stay goes between `{_FIRST}` and `{_LAST}`",
            remedies=(Remedy.FORCE,),
        )
    if found is None:
        return EarlierCard()
    front = read_front_matter(path)
    base, made_from = front.get("base_model"), _MADE_FROM.search(text)
    commit = made_from[1] if made_from else None
    source = Source(base if isinstance(base, str) else None, commit, front)
    return EarlierCard(found[1], source, COMMIT in text)


def card_text(facts: CardFacts, kept: str | None = None) -> str:
    """Write the card. kept: what stands between the marks."""
    front = yaml.safe_dump(front_matter(facts), sort_keys=False, allow_unicode=True, width=10_000)
    sections = "\n\n".join("\n".join(lines) for lines in _sections(facts, kept) if lines)
    return f"---\n{front}---\n\n{sections}\n"


def front_matter(facts: CardFacts) -> dict[str, Any]:
    """Give the YAML that the Hub reads: the source's, and whose quantization this is."""
    front = {key: value for key, value in facts.source.front_matter.items() if key not in _LEFT_OUT}
    tags = front.pop("tags", None)
    listed = [str(tag) for tag in tags] if isinstance(tags, list) else [str(tags)] if tags else []
    has_template = isinstance(facts.model.values.get(Keys.Tokenizer.CHAT_TEMPLATE), str)
    ours = ["gguf", *(["imatrix"] if _imatrix(facts) else []), *(["conversational"] if has_template else [])]
    base = {"base_model": facts.source.repository, "base_model_relation": "quantized"}
    owner = facts.repository.partition("/")[0] if facts.repository and "/" in facts.repository else None
    by = owner or facts.model.values.get(Keys.General.QUANTIZED_BY)
    return (
        {**_of_metadata(facts.model.values), **front}
        | (base if facts.source.repository else {})
        | ({"quantized_by": by} if by else {})
        | {"tags": list(dict.fromkeys([*listed, *ours]))}
    )


def _of_metadata(values: Mapping[str, Any]) -> dict[str, Any]:
    """Give what the files say themselves of license and languages."""
    keys = {
        "license": Keys.General.LICENSE,
        "license_name": Keys.General.LICENSE_NAME,
        "license_link": Keys.General.LICENSE_LINK,
    }
    said: dict[str, Any] = {name: values[key] for name, key in keys.items() if isinstance(values.get(key), str)}
    languages = values.get(Keys.General.LANGUAGES)
    return said | ({"language": [_text(each) for each in languages]} if isinstance(languages, tuple) else {})


def _sections(facts: CardFacts, kept: str | None) -> Iterator[list[str]]:
    yield [f"# {facts.name} in GGUF"]
    yield [*_made_from(facts)]
    yield [_FIRST, *(kept.splitlines() if kept is not None else []), _LAST]
    yield [*_files(facts)]
    yield [*_memory(facts)]
    yield ["## Measured", "", facts.measured.strip()] if facts.measured else []
    yield [*_prompt(facts)]
    yield [*how_to_run(facts.directory, facts.repository)]
    yield [*_checksums(facts)]
    yield [*_reproduce(facts)]


def _made_from(facts: CardFacts) -> Iterator[str]:
    source = facts.source
    if source.repository is None:
        yield f"{facts.name} as GGUF files, which llama.cpp and programs built on it run."
    else:
        at = (
            f" at commit [`{source.commit[:12]}`]({_HUB}/{source.repository}/tree/{source.commit})"
            if source.commit
            else ""
        )
        yield f"Made from [{source.repository}]({_HUB}/{source.repository}){at}."
    if facts.made_here:
        yield (
            f"The files are byte for byte what [llama.cpp at `{COMMIT[:12]}`]({GIT_URL}/tree/{COMMIT}) makes, its "
            "converter and llama-quantize, where these take the model."
        )
    if _imatrix(facts):
        yield _imatrix(facts)


def _imatrix(facts: CardFacts) -> str:
    """Say from which text importance was taken, if it was."""
    told = next((m.values for m in facts.directory.models if "quantize.imatrix.file" in m.values), None)
    if told is None:
        return ""
    text = told.get("quantize.imatrix.dataset")
    chunks = told.get("quantize.imatrix.chunks_count")
    of_text = f" of `{_base(text)}`" if text else ""
    return (
        f"Quantized with an importance matrix, `{_base(told['quantize.imatrix.file'])}`"
        f"{f', from {chunks} pieces' if chunks else ''}{of_text}."
    )


def _base(path: object) -> str:
    """Give a file's name without its folders, as what stands between backticks in one line."""
    return " ".join(_text(path).rpartition("/")[2].replace("`", "'").split())


def _text(value: object) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def _files(facts: CardFacts) -> Iterator[str]:
    contexts = [use.n_tokens for use in memory_use(facts.model.values, 0)]
    heads = ["File", "Type", "Size", "Bits a weight", *(f"Memory at {_tokens(n)}" for n in contexts), "Good for"]
    yield from ("## Files", "", _row(heads), _row(["---", "---", "---:", "---:", *["---:"] * len(contexts), "---"]))
    for model in facts.directory.models:
        uses = [size(use.nbytes) for use in memory_use(model.values, model.nbytes)]
        where = _links(model)
        yield _row(
            [where, model.label, _exact(model.nbytes), f"{model.bits_per_weight:.2f}", *uses, purpose(model.label)]
        )
    others = [file for file in facts.directory.files if file.role is not FileRole.MODEL]
    if others:
        yield ""
    yield from (f"- {_links(file)}, {_exact(file.nbytes)}: {_BESIDE[file.role]}" for file in others)


_BESIDE: Final = {
    FileRole.MMPROJ: "what turns images or sound into the model's words; programs load it together with a model",
    FileRole.MTP: "layers that predict further tokens, for speculative decoding",
    FileRole.IMPORTANCE: "the importance matrix, for quantizing again",
    FileRole.ADAPTER: "a LoRA adapter",
}


def _links(file: DescribedFile) -> str:
    first = file.names[0]
    parts = f", {len(file.names)} parts" if len(file.names) > 1 else ""
    return f"[{first.rpartition('/')[2]}]({first.replace(' ', '%20')}){parts}"


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cell.replace('|', '&#124;') for cell in cells)} |"


def size(nbytes: int) -> str:
    """Write a length in powers of 1000, as disks and the Hub do."""
    return f"{nbytes / 1e9:.2f} GB" if nbytes >= 10**8 else f"{nbytes / 1e6:.2f} MB"


def _exact(nbytes: int) -> str:
    return f"{size(nbytes)} ({nbytes:,} bytes)"


def _tokens(number: int) -> str:
    return f"{number // 1024}k" if number % 1024 == 0 else str(number)


def _memory(facts: CardFacts) -> Iterator[str]:
    uses = memory_use(facts.model.values, 0)
    caches = " and ".join(f"{size(use.cache)} at {_tokens(use.n_tokens)} tokens" for use in uses)
    yield (
        f"**Memory** is the file, the cache of keys and values in float16 ({caches}), and an overhead of "
        f"{size(uses[-1].overhead)}: what a batch of {BATCH} tokens is computed in, and {size(PROGRAM_NBYTES)} for the "
        "program."
    )
    yield "Choose the largest file whose sum fits your GPU, or GPU and RAM together where layers may stay on the CPU."


def _prompt(facts: CardFacts) -> list[str]:
    shape = prompt_format(facts.model.values)
    if shape is None:
        return ["## Prompt format", "", "The files have no chat template: this is a model that goes on with a text."]
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", shape)), default=0))
    return [
        "## Prompt format",
        "",
        "From the chat template, which is in the files:",
        "",
        fence,
        shape.strip("\n"),
        fence,
    ]


def _checksums(facts: CardFacts) -> list[str]:
    if not facts.sums:
        return []
    lines = [f"{digest}  {name}" for name, digest in sorted(facts.sums.items())]
    return ["## Checksums", "", "SHA-256, for `sha256sum -c SHA256SUMS`:", "", "```", *lines, "```"]


def _reproduce(facts: CardFacts) -> list[str]:
    """Say how the files are made again: from their lock, or as far as the directory tells."""
    lines = _from_scratch(facts) if facts.lock is None else _from_lock(facts, facts.lock)
    return ["## To make them again", "", *lines]


def _from_lock(facts: CardFacts, lock: Lock) -> list[str]:
    """Fetch the lock, an importance matrix beside it, and the model where the lock does not name it by its address."""
    place = quote(f"{facts.name}-GGUF") if facts.repository else "."
    matrices = {str(work.asked.options.get("imatrix", "")) for work in lock.works} - {""}
    beside = [LOCK_FILE, *sorted(name for name in matrices if is_inside(name) and name.isprintable())]
    names = " ".join(map(quote, beside))
    fetched = [f"hf download {facts.repository} {names} --local-dir {place}"] if facts.repository else []
    model, there = _model_of_lock(facts.source, lock)
    moved = f" --model {there}" if there else ""
    said = f"`{LOCK_FILE}` says of what, with what and how they were made; each is compared when it is made again:"
    return [said, "", "```sh", *fetched, *_fetched(model, there), f"convert reproduce {place}{moved}", "```"]


def _model_of_lock(source: Source, lock: Lock) -> tuple[Source, str]:
    """Say where the model of a lock comes from, and what its directory is to be called; empty where it needs none.

    The name goes into most files. What other weights were merged into it, or was made of it before, is no repository's.
    """
    inputs = [each for work in lock.works for each in work.inputs if each.role in ("model", "base")]
    found = next((each for each in inputs if is_place(each.place)), None)
    if found is None:
        return Source(), ""
    if found.repository:
        return Source(found.repository, found.commit), quote(found.repository.rpartition("/")[2])
    name = found.place.rpartition("/")[2]
    is_merged = any(work.asked.options.get("merge") for work in lock.works)
    if is_merged or not source.repository or name in ("", "..") or not name.isprintable():
        return Source(), "MODEL"
    return source, quote(name)


def _fetched(source: Source, place: str) -> list[str]:
    revision = f" --revision {source.commit}" if source.commit else ""
    return [f"hf download {source.repository}{revision} --local-dir {place}"] if source.repository else []


def _from_scratch(facts: CardFacts) -> list[str]:
    types = ",".join(dict.fromkeys(model.label.lower() for model in facts.directory.models))
    source, importance = facts.source, _importance_file(facts)
    name = facts.name if source.repository else "MODEL"
    given = f" --imatrix {quote(importance)}" if importance else ""
    command = f"convert all {quote(name)} {quote(f'{name}-GGUF')} --types {types}{given}"
    return ["```sh", *_fetched(source, quote(name)), command, "```"]


def _importance_file(facts: CardFacts) -> str | None:
    beside = facts.directory.of(FileRole.IMPORTANCE)
    used = (model.values.get("quantize.imatrix.file") for model in facts.directory.models)
    return beside[0].names[0] if beside else next((_base(path) for path in used if path), None)
