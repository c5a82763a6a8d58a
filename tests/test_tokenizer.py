"""The vocabulary we write against the reference converter's, from real tokenizers and what people do to them.

The comparison is whole: every `tokenizer.*` key, in order, with its types and values. Errors are tested without it,
most of them in `test_tokenizer_json.py`.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tokenizer_files import (
    edit_json,
    gemma_like,
    hostile,
    model_directory,
    our_entries,
    reference_entries,
    write_json,
)

from convert.errors import TokenizerError
from convert.tokenizer import BYTE_LEVEL_TOKENIZER, GEMMA_TOKENIZER, QWEN_TOKENIZER, TokenizerRule, read_vocabulary

if TYPE_CHECKING:
    from collections.abc import Callable

    from reference import Reference

CHAT_TEMPLATES = "tokenizer.chat_templates"
TINY_LLAMA = Path(__file__).parent / "data" / "tiny-llama" / "tokenizer.model"


def tinyllama(tmp_path: Path, shared: Path) -> tuple[Path, int]:
    source = shared / "tokenizers" / "tinyllama-chat"
    return model_directory(tmp_path, *source.iterdir(), vocab_size=32000), 32000


def tinyllama_added(tmp_path: Path, shared: Path) -> tuple[Path, int]:
    """Tokens added in both places, embeddings padded to 32016 (so CodeLlama's rule too), prefix space, templates."""
    source = shared / "tokenizers" / "tinyllama-chat"
    directory = model_directory(tmp_path, *source.iterdir(), vocab_size=32016)
    write_json(directory / "added_tokens.json", {"<|im_start|>": 32000, "▁deep": 32001})
    config = json.loads((directory / "tokenizer_config.json").read_text())
    config["added_tokens_decoder"]["32002"] = {"content": "▁two▁words", "special": False, "normalized": False}
    del config["chat_template"]
    config.update(add_prefix_space=True, add_eos_token=True)
    write_json(directory / "tokenizer_config.json", config)
    (directory / "chat_template.jinja").write_bytes(b"{{ bos_token }}\r\nline\rend")
    return directory, 32016


def tinyllama_without_model(tmp_path: Path, shared: Path) -> tuple[Path, int]:
    source = shared / "tokenizers" / "tinyllama-chat"
    files = [path for path in source.iterdir() if path.name != "tokenizer.model"]
    directory = model_directory(tmp_path, *files, vocab_size=32000)
    templates = [{"name": "default", "template": "d"}, {"name": "tool use", "template": "t"}]
    edit_json(directory / "tokenizer_config.json", chat_template=templates)
    return directory, 32000


def phi3(tmp_path: Path, shared: Path) -> tuple[Path, int]:
    """Trained with 11 added tokens; sentencepiece-like, without tokenizer.model."""
    return model_directory(tmp_path, *(shared / "tokenizers/phi-3-mini").iterdir(), vocab_size=32011), 32011


def falcon(tmp_path: Path, shared: Path) -> tuple[Path, int]:
    """Embeddings padded beyond a byte-level vocabulary."""
    directory = model_directory(tmp_path, shared / "tokenizers/falcon/tokenizer.json", vocab_size=65040)
    write_json(directory / "tokenizer_config.json", {"eos_token": "<|endoftext|>", "bos_token": "<|endoftext|>"})
    return directory, 65040


def gpt_neox(tmp_path: Path, shared: Path) -> tuple[Path, int]:
    directory = model_directory(tmp_path, shared / "tokenizers/gptneox/tokenizer.json", vocab_size=50432)
    write_json(directory / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast"})
    return directory, 50432


def gpt2(tmp_path: Path, shared: Path) -> tuple[Path, int]:
    directory = model_directory(tmp_path, *(shared / "tokenizers/gpt2").iterdir(), vocab_size=50257, eos_token_id=50256)
    write_json(directory / "tokenizer_config.json", {"tokenizer_class": "GPT2Tokenizer"})
    return directory, 50257


def qwen(tmp_path: Path, shared: Path) -> tuple[Path, int]:
    return model_directory(tmp_path, *(shared / "tokenizers/qwen2.5").iterdir(), vocab_size=151936), 151936


def stories(tmp_path: Path, shared: Path) -> tuple[Path, int]:
    return model_directory(tmp_path, shared / "stories260K/tokenizer.model", vocab_size=512), 512


CASES = [tinyllama, tinyllama_added, tinyllama_without_model, phi3, falcon, gpt_neox, gpt2, qwen, stories]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_vocabulary_is_the_references(
    case: Callable[[Path, Path], tuple[Path, int]], tmp_path: Path, shared_fixtures: Path, reference: Reference
) -> None:
    directory, vocab_size = case(tmp_path, shared_fixtures)
    assert our_entries(directory, vocab_size) == reference_entries(reference, directory)


# ---------------------------------------------------------------------- other families' rules

GEMMA_CONFIG = {
    "architectures": ["Gemma3ForCausalLM"],
    "model_type": "gemma3_text",
    "num_key_value_heads": 2,
    "head_dim": 16,
    "sliding_window": 64,
}
QWEN_CONFIG = {"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "head_dim": 16, "num_key_value_heads": 4}


def gemma(tmp_path: Path, *, vocab_size: int, **tokenizer_config: object) -> Path:
    """Gemma 3's layout: 1024 pieces, and the image token at the first id after them, said in both places."""
    directory = model_directory(tmp_path, TINY_LLAMA, vocab_size=vocab_size, **GEMMA_CONFIG)
    write_json(directory / "added_tokens.json", {"<image_soft_token>": 1024})
    token = {"content": "<image_soft_token>", "special": True, "normalized": False}
    decoder = {"added_tokens_decoder": {"1024": token}}
    write_json(directory / "tokenizer_config.json", {"add_bos_token": True, **decoder, **tokenizer_config})
    return directory


@pytest.mark.parametrize("vocab_size", [1024, 1025, 1088], ids=["text_only", "with_image_token", "padded"])
def test_gemma_vocabulary_is_the_references(vocab_size: int, tmp_path: Path, reference: Reference) -> None:
    directory = gemma(tmp_path, vocab_size=vocab_size, add_prefix_space=True)
    assert our_entries(directory, vocab_size, GEMMA_TOKENIZER) == reference_entries(reference, directory)


def test_gemma_says_that_no_space_goes_first_after_all_else(tmp_path: Path) -> None:
    directory = gemma(tmp_path, vocab_size=1025, add_prefix_space=True)
    assert our_entries(directory, 1025, GEMMA_TOKENIZER)[-1] == ("tokenizer.ggml.add_space_prefix", False, "BOOL")


def test_only_the_image_token_of_gemma_may_lie_beyond_the_embeddings(tmp_path: Path) -> None:
    directory = gemma(tmp_path, vocab_size=1024)
    assert len(read_vocabulary(directory, vocab_size=1024, rule=GEMMA_TOKENIZER).tokens) == 1024
    with pytest.raises(TokenizerError, match="image_soft_token"):
        read_vocabulary(directory, vocab_size=1024)
    edit_json(directory / "added_tokens.json", **{"<mine>": 1025})
    with pytest.raises(TokenizerError, match="<mine>"):
        read_vocabulary(directory, vocab_size=1024, rule=GEMMA_TOKENIZER)


def test_gemma_3_without_tokenizer_model_has_the_references_name_for_it(tmp_path: Path) -> None:
    """The reference's hash of google/gemma-3's tokenizer.json, which only it has with `<start_of_image>`."""
    write_json(tmp_path / "tokenizer.json", gemma_like("<start_of_image>"))
    vocabulary = read_vocabulary(tmp_path, vocab_size=5, rule=GEMMA_TOKENIZER)
    assert (vocabulary.model, vocabulary.pre) == ("gpt2", "granite-embed-multi-311m")


def test_unknown_byte_fallback_says_to_add_tokenizer_model(tmp_path: Path) -> None:
    write_json(tmp_path / "tokenizer.json", gemma_like())
    with pytest.raises(TokenizerError) as caught:
        read_vocabulary(tmp_path, vocab_size=4, rule=GEMMA_TOKENIZER)
    assert "tokenizer.model" in (caught.value.hint or "")


def test_byte_level_rule_does_not_look_at_tokenizer_model(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_bytes(b"not one")
    assert read_vocabulary(hostile(tmp_path), vocab_size=4, rule=BYTE_LEVEL_TOKENIZER).model == "gpt2"


@pytest.mark.parametrize("rule", [QWEN_TOKENIZER, BYTE_LEVEL_TOKENIZER], ids=["qwen", "byte_level"])
def test_qwen_vocabulary_is_the_references(
    rule: TokenizerRule, tmp_path: Path, shared_fixtures: Path, reference: Reference
) -> None:
    source = shared_fixtures / "tokenizers/qwen2.5"
    directory = model_directory(tmp_path, *source.iterdir(), vocab_size=151936, **QWEN_CONFIG)
    assert our_entries(directory, 151936, rule) == reference_entries(reference, directory)


def test_qwen_vocabulary_of_a_tokenizer_json_is_the_references(
    tmp_path: Path, shared_fixtures: Path, reference: Reference
) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(shared_fixtures / "tokenizers/qwen2.5")
    directory = model_directory(tmp_path, vocab_size=151936, **QWEN_CONFIG)
    tokenizer.save_pretrained(directory)
    assert not (directory / "vocab.json").exists()
    assert our_entries(directory, 151936, BYTE_LEVEL_TOKENIZER) == reference_entries(reference, directory)


def test_config_given_is_not_read_again(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("not JSON")
    vocabulary = read_vocabulary(hostile(tmp_path), vocab_size=4, model_config={"bos_token_id": 2})
    assert dict(vocabulary.special.ids)["bos"] == 2


CODES = {"llama-spm": "tinyllama-chat", "phi-3": "phi-3-mini", "falcon": "falcon", "qwen2": "qwen2.5", "gpt-2": "gpt2"}


@pytest.mark.shared
@pytest.mark.parametrize("case", CODES)
def test_expected_ids_of_llama_cpps_cases_spell_the_text(case: str, tmp_path: Path, shared_fixtures: Path) -> None:
    source = shared_fixtures / "tokenizers" / CODES[case]
    for path in source.iterdir():
        shutil.copy(path, tmp_path)
    edit_json(tmp_path / "tokenizer_config.json", **({"tokenizer_class": "GPT2Tokenizer"} if case == "gpt-2" else {}))
    vocabulary = read_vocabulary(tmp_path, vocab_size=None)
    cases = shared_fixtures / "token-cases"
    texts = (cases / f"{case}.inp").read_bytes().decode("utf-8").split("\n__ggml_vocab_test__\n")
    for text, line in zip(texts, (cases / f"{case}.out").read_text().splitlines(), strict=False):
        spelled = spell([vocabulary.tokens[int(number)] for number in line.split()], model=vocabulary.model)
        assert spelled.removeprefix(b" " if vocabulary.model == "llama" else b"") == text.encode()


def spell(tokens: list[bytes], *, model: str) -> bytes:
    if model == "llama":
        return b"".join(
            bytes([int(token[3:5], 16)])
            if len(token) == 6 and token.startswith(b"<0x")
            else token.replace("▁".encode(), b" ")
            for token in tokens
        )
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(0x100) if byte not in printable]
    byte_of = {chr(byte): byte for byte in printable} | {chr(0x100 + i): byte for i, byte in enumerate(others)}
    return bytes(byte_of[char] for token in tokens for char in token.decode())
