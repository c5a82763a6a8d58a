"""The prompt format, and Ollama's template and Modelfile: against what transformers renders, and Ollama's own rules."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from typing import TYPE_CHECKING, Any, Final

import pytest
from modelfile_parser import parameters_of, parse_modelfile
from transformers.utils.chat_template_utils import render_jinja_template

import convert
from convert.publish.conversation import go_template, prompt_format
from convert.publish.files import DescribedFile, FileRole
from convert.publish.modelfile import hub_files, modelfile

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

TOKENS: Final = ("<s>", "</s>", "<|im_end|>", "<|eot_id|>")
CHATML: Final = (
    "{% for message in messages %}{{ '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>' + '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
TEMPLATES: Final = {
    "chatml": CHATML,
    "chatml with a system message of its own": (
        "{% if messages[0].role != 'system' %}{{ '<|im_start|>system\nYou are \"helpful\".<|im_end|>\n' }}{% endif %}"
        + CHATML
    ),
    "llama 3": (
        "{{ bos_token }}{% for message in messages %}{{ '<|start_header_id|>' + message.role + '<|end_header_id|>\n\n'"
        " + message.content | trim + '<|eot_id|>' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
    ),
    "the system message in the user's": (
        "{% if messages[0].role == 'system' %}{% set system = '<<SYS>>\n' + messages[0].content + '\n<</SYS>>\n\n' %}"
        "{% set messages = messages[1:] %}{% else %}{% set system = '' %}{% endif %}{% for message in messages %}"
        "{% if message.role == 'user' %}{{ bos_token + '[INST] ' + (system if loop.first else '') + message.content"
        " + ' [/INST]' }}{% else %}{{ message.content + eos_token }}{% endif %}{% endfor %}"
    ),
    "no system message": (
        "{{ bos_token }}{% for message in messages %}{% if message.role == 'system' %}"
        "{{ raise_exception('System role not supported') }}{% endif %}{{ '<start_of_turn>' + "
        "('model' if message.role == 'assistant' else message.role) + '\n' + message.content + '<end_of_turn>\n' }}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
    ),
}  # fmt: skip
HARDER: Final = {
    "a blank that only earlier answers have": CHATML.replace(
        "+ message.content", "+ (' ' if loop.index == 3 else '') + message.content"
    ),
    "tools": "{% if tools %}{{ tools }}{% endif %}" + CHATML,
    "words changed": CHATML.replace("message.content", "message.content.upper()"),
    "Go's own brackets": CHATML.replace("<|im_end|>", "{{ '{{' }}"),
    "no template at all": None,
}
CONVERSATION: Final = (("system", "Be brief."), ("user", "Who?"), ("assistant", "Jane."), ("user", "When?"))


def metadata(template: str | None, **more: Any) -> dict[str, Any]:  # noqa: ANN401 - values of GGUF
    given = {} if template is None else {"tokenizer.chat_template": template}
    ids = {"tokenizer.ggml.bos_token_id": 0, "tokenizer.ggml.eos_token_id": 1}
    return {"tokenizer.ggml.tokens": TOKENS, **ids, **given, **more}


def by_transformers(template: str, messages: tuple[tuple[str, str], ...]) -> str:
    listed = [{"role": role, "content": content} for role, content in messages]
    named = {"bos_token": TOKENS[0], "eos_token": TOKENS[1]}
    rendered, _ = render_jinja_template([listed], chat_template=template, add_generation_prompt=True, **named)
    return str(rendered[0])


def by_ollama(template: str, messages: tuple[tuple[str, str], ...], system: str) -> str:
    """Execute a Go template of `if`, `end` and fields once a turn, as Ollama does; the last up to the response."""
    turn, text = {"System": system}, ""
    for role, content in messages:
        turn[{"system": "System", "user": "Prompt", "assistant": "Response"}[role]] = content
        if role == "assistant":
            text, turn = text + executed(template, turn), {}
    return text + executed(template.partition("{{ .Response }}")[0], turn)


def executed(template: str, fields: Mapping[str, str]) -> str:
    chosen = re.sub(
        r"\{\{ if \.(\w+) \}\}(.*?)\{\{ end \}\}", lambda found: found[2] if fields.get(found[1]) else "", template,
        flags=re.DOTALL,
    )  # fmt: skip
    return re.sub(r"\{\{ \.(\w+) \}\}", lambda found: fields.get(found[1], ""), chosen)


@pytest.mark.parametrize("name", TEMPLATES)
def test_go_s_words_give_the_prompts_of_the_chat_template(name: str) -> None:
    made = go_template(metadata(TEMPLATES[name]))
    assert made is not None
    takes_system = name != "no system message"
    for messages in ([CONVERSATION] if takes_system else []) + [CONVERSATION[1:]]:
        wanted = by_transformers(TEMPLATES[name], messages).removeprefix(TOKENS[0])  # which llama.cpp adds
        assert by_ollama(made.template, messages, made.system) == wanted


@pytest.mark.parametrize("name", HARDER)
def test_a_template_that_is_more_than_pieces_is_left_to_ollama(name: str) -> None:
    assert go_template(metadata(HARDER[name])) is None


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_prompt_format_is_what_transformers_renders(name: str) -> None:
    messages = (("system", "{system prompt}"), ("user", "{prompt}"))
    wanted = by_transformers(TEMPLATES[name], messages[name == "no system message" :])
    assert prompt_format(metadata(TEMPLATES[name])) == wanted


def described(values: dict[str, Any], *names: str) -> DescribedFile:
    return DescribedFile(names, FileRole.MODEL, "Q4_K_M", 1, values, 1)


SAMPLING: Final = {
    "general.sampling.temp": 0.6000000238418579,
    "general.sampling.top_k": 20,
    "general.sampling.top_p": 0.949999988079071,
    "general.sampling.penalty_repeat": 1.0499999523162842,
}


@pytest.mark.parametrize("name", TEMPLATES)
def test_ollama_s_parser_reads_of_a_modelfile_what_was_meant(name: str) -> None:
    values = metadata(TEMPLATES[name], **SAMPLING)
    commands = parse_modelfile(modelfile(described(values, "my model-Q4_K_M.gguf"), ["mmproj-F16.gguf"], [2, 3]))
    made = go_template(values)
    assert made is not None
    assert [value for command, value in commands if command == "from"] == [
        "./my model-Q4_K_M.gguf",
        "./mmproj-F16.gguf",
    ]
    assert [value for command, value in commands if command == "template"] == [made.template]
    assert [value for command, value in commands if command == "system"] == ([made.system] if made.system else [])
    assert parameters_of(commands) == {
        "stop": ["</s>", "<|im_end|>", "<|eot_id|>"],
        "temperature": 0.6,
        "top_k": 20,
        "top_p": 0.95,
        "repeat_penalty": 1.05,
    }


def test_a_split_model_has_a_line_for_each_part_and_no_template_where_ollama_reads_it() -> None:
    parts = ("m/m-00001-of-00002.gguf", "m/m-00002-of-00002.gguf")
    commands = parse_modelfile(modelfile(described(metadata(HARDER["tools"]), *parts)))
    assert commands == [("from", f"./{parts[0]}"), ("from", f"./{parts[1]}"), ("stop", "</s>")]


def test_a_repository_tells_ollama_what_is_known() -> None:
    files = hub_files(described(metadata(TEMPLATES["chatml with a system message of its own"], **SAMPLING)))
    assert set(files) == {"params", "template", "system"}
    assert json.loads(files["params"])["stop"] == ["</s>"]
    assert files["system"] == 'You are "helpful".'
    assert hub_files(described(metadata(None))) == {}


def test_the_command_writes_one_for_each_type(tiny_llama: Path, tmp_path: Path) -> None:
    convert.convert_all(tiny_llama, convert.OutputRequest(tmp_path, types="q8_0,q4_0"))
    command = [sys.executable, "-m", "convert", "modelfile", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == ""
    for kind in ("Q8_0", "Q4_0"):
        assert parse_modelfile((tmp_path / f"Modelfile-{kind}").read_text()) == [("from", f"./tiny-llama-{kind}.gguf")]
