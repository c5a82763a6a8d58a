"""How a model's chat template writes a conversation: asked by rendering it, since a template is a program.

    P0 SYSTEM P1 USER P2 ASSISTANT P3 USER P4          with a system message
    Q0        USER Q1 ASSISTANT Q2 USER Q3             without

Where these pieces are the same wherever they should be, the template is no more than they say, and can be written in
another language: `go_template`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from gguf import Keys

from convert.verify.chat_template import named_tokens, render_conversation, token_text

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_SYSTEM, _USER, _ANSWER, _AGAIN = "{system prompt}", "{prompt}", "{answer}", "{next prompt}"
_MESSAGES: Final = (("system", _SYSTEM), ("user", _USER), ("assistant", _ANSWER), ("user", _AGAIN))
_END_KEYS: Final = (Keys.Tokenizer.EOS_ID, Keys.Tokenizer.EOT_ID, Keys.Tokenizer.EOM_ID)
# What ends a conversation for Go's templates, or for a Modelfile; and what no terminal prints.
_UNWRITABLE: Final = ("{{", "}}", '"""')


@dataclass(frozen=True, slots=True)
class OllamaTemplate:
    """A chat template in Go's words. system: what it says where no system message is given, if anything."""

    template: str
    system: str = ""


def prompt_format(values: Mapping[str, Any]) -> str | None:
    """Render a model's chat template with words in braces for what people say; None where there is none.

    values: the metadata of its file.
    """
    for messages in (_MESSAGES[:2], _MESSAGES[1:2]):  # some take no system message
        rendered = _rendered(values, messages)
        if rendered is not None:
            return rendered
    return None


def end_texts(values: Mapping[str, Any], also: Sequence[int] = ()) -> tuple[str, ...]:
    """Give the texts of the tokens that end an answer. also: numbers of more, as generation_config.json has them."""
    tokens = _tokens(values)
    numbers = [values[key] for key in _END_KEYS if isinstance(values.get(key), int)]
    listed = (tokens[number] for number in (*numbers, *also) if 0 <= number < len(tokens))
    return tuple(dict.fromkeys(text for text in listed if text and not text.isspace()))


def go_template(values: Mapping[str, Any]) -> OllamaTemplate | None:
    """Write a chat template in Go's words, as Ollama's TEMPLATE is; None where it is more than pieces around messages.

    A template that writes tools is more: Ollama then reads the one in the file.
    """
    template = values.get(Keys.Tokenizer.CHAT_TEMPLATE)
    if not isinstance(template, str) or "tools" in template:
        return None
    long, short = _pieces(values, _MESSAGES), _pieces(values, _MESSAGES[1:])
    if short is None or short[1] != short[3]:
        return None
    made = _without_system(short) if long is None else _with_system(long, short)
    return made if made is not None and _is_writable(made) else None


def _without_system(short: Sequence[str]) -> OllamaTemplate | None:
    before, after, between, _ = short
    if not between.endswith(before):
        return None
    rest = between[: len(between) - len(before)]
    return OllamaTemplate(f"{{{{ if .Prompt }}}}{before}{{{{ .Prompt }}}}{{{{ end }}}}{after}{{{{ .Response }}}}{rest}")


def _with_system(long: Sequence[str], short: Sequence[str]) -> OllamaTemplate | None:
    p0, p1, after, between, last = long
    before = short[0]
    if list(short[1:]) != [after, between, last]:
        return None
    answer = f"{after}{{{{ .Response }}}}"
    if before.startswith(p0) and before.endswith(p1) and len(before) > len(p0) + len(p1):  # it has words of its own
        system = before[len(p0) : len(before) - len(p1)]
        turn = f"{{{{ if .System }}}}{p0}{{{{ .System }}}}{p1}{{{{ end }}}}{{{{ .Prompt }}}}{answer}{between}"
        return OllamaTemplate(turn, system)
    if not between.endswith(before):
        return None
    rest = between[: len(between) - len(before)]
    if p1.endswith(before):  # the system message is a turn of its own
        head = f"{{{{ if .System }}}}{p0}{{{{ .System }}}}{p1[: len(p1) - len(before)]}{{{{ end }}}}"
        return OllamaTemplate(f"{head}{before}{{{{ .Prompt }}}}{answer}{rest}")
    if p0.startswith(before):  # it stands in the user's first one
        head = f"{{{{ if .System }}}}{p0[len(before) :]}{{{{ .System }}}}{p1}{{{{ end }}}}"
        return OllamaTemplate(f"{before}{head}{{{{ .Prompt }}}}{answer}{rest}")
    return None


def _is_writable(made: OllamaTemplate) -> bool:
    plain = made.template
    for action in (
        "{{ if .System }}",
        "{{ .System }}",
        "{{ if .Prompt }}",
        "{{ .Prompt }}",
        "{{ .Response }}",
        "{{ end }}",
    ):
        plain = plain.replace(action, "")
    text = plain + made.system
    return not any(word in text for word in _UNWRITABLE) and all(
        letter.isprintable() or letter in "\n\t" for letter in text
    )


def _pieces(values: Mapping[str, Any], messages: Sequence[tuple[str, str]]) -> list[str] | None:
    """Cut what a template writes at the messages; None where it writes one twice, not, or changed.

    The token that begins a text is left out: llama.cpp adds it.
    """
    rendered = _rendered(values, messages)
    if rendered is None:
        return None
    pieces = []
    for _, content in messages:
        head, found, rendered = rendered.partition(content)
        if not found or content in rendered:
            return None
        pieces.append(head)
    begins = named_tokens(values, _tokens(values))["bos_token"]
    return [pieces[0].removeprefix(begins), *pieces[1:], rendered]


def _rendered(values: Mapping[str, Any], messages: Sequence[tuple[str, str]]) -> str | None:
    template = values.get(Keys.Tokenizer.CHAT_TEMPLATE)
    if not isinstance(template, str):
        return None
    listed = [{"role": role, "content": content} for role, content in messages]
    rendered, error = render_conversation(template, listed, named_tokens(values, _tokens(values)))
    return rendered if error is None else None


def _tokens(values: Mapping[str, Any]) -> list[str]:
    vocabulary = values.get(Keys.Tokenizer.LIST)
    return [token_text(token) for token in vocabulary] if isinstance(vocabulary, tuple) else []
