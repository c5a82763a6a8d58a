"""What Ollama is told of a model: a Modelfile for each type, and `params`, `template` and `system` of a repository.

A Modelfile is lines of a command and its value; a value with a line break or blanks at its ends stands in quotation
marks, three of them where it has one itself. Source: ollama, parser/parser.go @ fb30760; api/types.go, Options.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from gguf import Keys

from convert.publish.conversation import end_texts, go_template

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from convert.publish.files import DescribedFile

# The metadata's sampling defaults, which come from generation_config.json -> Ollama's parameters.
_SAMPLING: Final = {
    Keys.General.SAMPLING_TEMP: "temperature",
    Keys.General.SAMPLING_TOP_K: "top_k",
    Keys.General.SAMPLING_TOP_P: "top_p",
    Keys.General.SAMPLING_MIN_P: "min_p",
    Keys.General.SAMPLING_PENALTY_REPEAT: "repeat_penalty",
    Keys.General.SAMPLING_PENALTY_LAST_N: "repeat_last_n",
}


def parameters(values: Mapping[str, Any], ends: Sequence[int] = ()) -> dict[str, Any]:
    """Give Ollama's parameters: texts that end an answer, and how the next token is chosen.

    values: the metadata of a file. ends: more tokens that end an answer, by number.
    """
    chosen: dict[str, Any] = {}
    if isinstance(values.get(Keys.Tokenizer.CHAT_TEMPLATE), str) and (texts := end_texts(values, ends)):
        chosen["stop"] = list(texts)
    for key, name in _SAMPLING.items():
        if isinstance(value := values.get(key), (int, float)):
            chosen[name] = value if isinstance(value, int) else float(f"{value:.7g}")  # as float32 has it
    return chosen


def modelfile(model: DescribedFile, beside: Iterable[str] = (), ends: Sequence[int] = ()) -> str:
    """Write the Modelfile of a model, whose files lie beside it. beside: projectors."""
    return "".join(f"{line}\n" for line in _lines(model, beside, ends))


def _lines(model: DescribedFile, beside: Iterable[str], ends: Sequence[int]) -> Iterator[str]:
    yield f"# ollama create NAME -f {modelfile_name(model)}"
    for name in (*model.names, *beside):
        yield f"FROM ./{name}"
    if (made := go_template(model.values)) is not None:
        yield f"TEMPLATE {_quoted(made.template)}"
        if made.system:
            yield f"SYSTEM {_quoted(made.system)}"
    for name, value in parameters(model.values, ends).items():
        for each in value if isinstance(value, list) else [value]:
            yield f"PARAMETER {name} {_quoted(each) if isinstance(each, str) else each}"


def _quoted(text: str) -> str:
    """Quote a value so that the parser reads it as it is."""
    return f'"""{text}"""' if '"' in text or "\n" in text else f'"{text}"'


def modelfile_name(model: DescribedFile) -> str:
    """Name the Modelfile of a type."""
    return f"Modelfile-{model.label}"


def hub_files(model: DescribedFile, ends: Sequence[int] = ()) -> dict[str, str]:
    """Give the files by which the Hub tells Ollama of a repository: those of which something is known."""
    chosen, made = parameters(model.values, ends), go_template(model.values)
    files = {"params": json.dumps(chosen, indent=2, ensure_ascii=False) + "\n"} if chosen else {}
    if made is not None:
        files |= {"template": made.template} | ({"system": made.system} if made.system else {})
    return files
