"""The chat template: it renders, its control tokens are tokens, and it ends a turn with a token that ends generation.

A template is a program from a stranger: it runs in Jinja's immutable sandbox, as in transformers.
Source of the environment: transformers 5.23, utils/chat_template_utils.py, _compile_jinja_template.
"""

from __future__ import annotations

import json
import re
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, Final

from gguf import Keys

from convert.verify.data import Finding, note, problem

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from jinja2.sandbox import ImmutableSandboxedEnvironment

CHECK = "chat template"

_USER: Final = {"role": "user", "content": "Who wrote Emma?"}
_ASSISTANT: Final = {"role": "assistant", "content": "Jane Austen."}
_SYSTEM: Final = {"role": "system", "content": "Answer briefly."}
# Some templates refuse a system message, with an exception of their own: then without.
_CONVERSATIONS: Final = ([_SYSTEM, _USER, _ASSISTANT, _USER], [_USER, _ASSISTANT, _USER])
_CONTROL: Final = re.compile(r"<\|[^|<>\s]+\|>")
_ENDS: Final = (Keys.Tokenizer.EOS_ID, Keys.Tokenizer.EOT_ID, Keys.Tokenizer.EOM_ID)


def check_chat_template(values: Mapping[str, Any]) -> Iterator[Finding]:
    """Check every chat template that the metadata holds."""
    templates = {
        key: value
        for key, value in values.items()
        if key.startswith(Keys.Tokenizer.CHAT_TEMPLATE) and isinstance(value, str)
    }
    vocabulary = values.get(Keys.Tokenizer.LIST)
    tokens = [token_text(token) for token in vocabulary] if isinstance(vocabulary, tuple) else []
    for key, template in templates.items():
        yield from _check_template(key, template, values, tokens)


def _check_template(key: str, template: str, values: Mapping[str, Any], tokens: Sequence[str]) -> Iterator[Finding]:
    rendered, error = _render(template, named_tokens(values, tokens))
    if error is not None:
        # What comes beside the default (`tool_use`, `rag`) may need more than a conversation.
        report = problem if key == Keys.Tokenizer.CHAT_TEMPLATE else note
        yield report(CHECK, f"`{key}` does not render: {error}")
        return
    yield from _check_control_tokens(key, rendered, set(tokens))
    yield from _check_end(key, rendered, values, tokens)


def _check_control_tokens(key: str, rendered: str, tokens: set[str]) -> Iterator[Finding]:
    written = dict.fromkeys(_CONTROL.findall(rendered))
    missing = [name for name in written if name not in tokens]
    if not missing or not tokens:
        return
    listed = ", ".join(f"`{name}`" for name in missing)
    message = f"`{key}` writes {listed}, of which the vocabulary has no token"
    # Some models (TinyLlama, Zephyr) were trained with such words spelled out in pieces: then none is a token.
    yield problem(CHECK, message) if len(missing) < len(written) else note(CHECK, message)


def _check_end(key: str, rendered: str, values: Mapping[str, Any], tokens: Sequence[str]) -> Iterator[Finding]:
    ids = [values[name] for name in _ENDS if isinstance(values.get(name), int)]
    ends = [tokens[number] for number in ids if 0 <= number < len(tokens)]
    if ends and not any(end in rendered for end in ends):
        listed = ", ".join(f"`{end}`" for end in ends)
        yield note(CHECK, f"`{key}` ends no turn with {listed}: the model may not stop by itself")


def named_tokens(values: Mapping[str, Any], tokens: Sequence[str]) -> dict[str, str]:
    """Give a template what it calls `bos_token`, `eos_token` and the like."""
    named = {}
    for role in ("bos", "eos", "unk", "sep", "pad"):
        key = "unknown" if role == "unk" else "seperator" if role == "sep" else "padding" if role == "pad" else role
        number = values.get(f"tokenizer.ggml.{key}_token_id")
        if isinstance(number, int) and 0 <= number < len(tokens):
            named[f"{role}_token"] = tokens[number]
    return {"bos_token": "", "eos_token": ""} | named


def _render(template: str, named: Mapping[str, str]) -> tuple[str, str | None]:
    """Return the text of the first conversation that the template takes, or why it takes none."""
    error: str | None = None
    for messages in _CONVERSATIONS:
        rendered, error = render_conversation(template, messages, named)
        if error is None:
            return rendered, None
    return "", error


def render_conversation(template: str, messages: object, named: Mapping[str, str]) -> tuple[str, str | None]:
    """Render a template as transformers does, up to where the model is to speak; or say why it does not render."""
    from jinja2 import TemplateError  # noqa: PLC0415 - only where a file has a template

    given = {"messages": messages, "tools": None, "documents": None, "add_generation_prompt": True, **named}
    try:
        return _environment().from_string(template).render(given), None
    # A template may fail in whatever way Python code fails.
    except (TemplateError, ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        return "", " ".join(f"{type(error).__name__}: {error}".split())


def _environment() -> ImmutableSandboxedEnvironment:
    from jinja2 import TemplateError  # noqa: PLC0415
    from jinja2.ext import loopcontrols  # noqa: PLC0415
    from jinja2.sandbox import ImmutableSandboxedEnvironment  # noqa: PLC0415

    def raise_exception(message: str) -> None:
        raise TemplateError(message)

    def to_json(value: object, indent: int | None = None, **options: Any) -> str:  # noqa: ANN401
        return json.dumps(value, ensure_ascii=options.get("ensure_ascii", False), indent=indent)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, _generation_tag()]
    )
    environment.filters["tojson"] = to_json
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = lambda spelling: datetime.now(timezone.utc).strftime(spelling)
    return environment


def _generation_tag() -> type[Any]:
    """Make the extension for `{% generation %}`, which marks the assistant's words and changes nothing."""
    from jinja2 import nodes  # noqa: PLC0415
    from jinja2.ext import Extension  # noqa: PLC0415

    class Generation(Extension):
        tags = {"generation"}  # noqa: RUF012 - as Jinja declares it

        def parse(self, parser: Any) -> Any:  # noqa: ANN401
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return nodes.Scope(body).set_lineno(line)

    return Generation


def token_text(token: object) -> str:
    """Give a token of the vocabulary as text."""
    return token.decode(errors="replace") if isinstance(token, bytes) else str(token)
