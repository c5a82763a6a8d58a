"""The vocabulary we write against the reference converter's, from real tokenizers and what people do to them.

The comparison is whole: every `tokenizer.*` key, in order, with its types and values. Errors are tested without it.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gguf
import pytest

from convert.errors import CheckpointError, ConvertError, TokenizerError, UnsupportedError, UsageError
from convert.tokenizer import (
    BYTE_LEVEL_TOKENIZER,
    GEMMA_TOKENIZER,
    LLAMA_TOKENIZER,
    QWEN_TOKENIZER,
    TokenizerRule,
    read_vocabulary,
    vocabulary_metadata,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from reference import Reference

    from convert.gguf_file import KeyValue

CHAT_TEMPLATES = "tokenizer.chat_templates"
TINY_LLAMA = Path(__file__).parent / "data" / "tiny-llama" / "tokenizer.model"


def write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value), encoding="utf-8")


def edit_json(path: Path, **changes: object) -> None:
    write_json(path, {**(json.loads(path.read_text()) if path.exists() else {}), **changes})


def model_directory(tmp_path: Path, *sources: Path, vocab_size: int, **config: object) -> Path:
    directory = tmp_path / "model"
    directory.mkdir()
    for source in sources:
        shutil.copy(source, directory)
    shape = {"hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 64}
    kind = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "transformers_version": "5.0.0"}
    rest = {"vocab_size": vocab_size, "max_position_embeddings": 128, "rms_norm_eps": 1e-5}
    write_json(directory / "config.json", {**kind, **shape, **rest, **config})
    return directory


def value_of(entry: KeyValue) -> Any:  # noqa: ANN401 - a metadata value
    if entry.type != gguf.GGUFValueType.ARRAY:
        return entry.value
    return [item.decode("utf-8") if isinstance(item, bytes) else item for item in entry.value]


def reference_entries(reference: Reference, directory: Path) -> list[tuple[str, Any, str]]:
    out = directory.parent / "vocab.gguf"
    command = [sys.executable, str(reference.converter), str(directory), "--vocab-only", "--outfile", str(out)]
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    fields = gguf.GGUFReader(out).fields.items()
    return [
        (key, field.contents(), "/".join(type_.name for type_ in field.types))
        for key, field in fields
        if key.startswith("tokenizer.")
    ]


def our_entries(directory: Path, vocab_size: int, rule: TokenizerRule = LLAMA_TOKENIZER) -> list[tuple[str, Any, str]]:
    entries = vocabulary_metadata(read_vocabulary(directory, vocab_size=vocab_size, rule=rule))
    return [(entry.key, value_of(entry), type_name(entry)) for entry in entries]


def type_name(entry: KeyValue) -> str:
    if entry.type != gguf.GGUFValueType.ARRAY:
        return str(entry.type.name)
    inferred = gguf.GGUFValueType.get_type(entry.value[0])
    return f"ARRAY/{(entry.item_type or inferred).name}"


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


def gemma_json(*tokens: str) -> dict[str, Any]:
    vocab = {token: number for number, token in enumerate(("a", "▁", "a▁", "<s>", *tokens))}
    return {
        **byte_level_json(
            {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False}
        ),
        "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
        "decoder": {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Fuse"}]},
        "model": {"type": "BPE", "byte_fallback": True, "vocab": vocab, "merges": [["a", "▁"]]},
    }


def test_gemma_3_without_tokenizer_model_has_the_references_name_for_it(tmp_path: Path) -> None:
    """The reference's hash of google/gemma-3's tokenizer.json, which only it has with `<start_of_image>`."""
    write_json(tmp_path / "tokenizer.json", gemma_json("<start_of_image>"))
    vocabulary = read_vocabulary(tmp_path, vocab_size=5, rule=GEMMA_TOKENIZER)
    assert (vocabulary.model, vocabulary.pre) == ("gpt2", "granite-embed-multi-311m")


def test_unknown_byte_fallback_says_to_add_tokenizer_model(tmp_path: Path) -> None:
    write_json(tmp_path / "tokenizer.json", gemma_json())
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


# ---------------------------------------------------------------------- small tokenizers of our own

LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
TEKKEN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def split(regex: str) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False}


def byte_level(*, use_regex: bool) -> dict[str, Any]:
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": use_regex}


def sequence(*steps: dict[str, Any]) -> dict[str, Any]:
    return {"type": "Sequence", "pretokenizers": list(steps)}


def added(number: int, content: str, *, special: bool = True, normalized: bool = False) -> dict[str, Any]:
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": normalized, "special": special}
    return {"id": number, "content": content, **flags}


def byte_level_json(
    pre_tokenizer: object, *, extra: tuple[dict[str, Any], ...] = (), **model: object
) -> dict[str, Any]:
    return {
        "version": "1.0",
        "added_tokens": [added(3, "<s>"), *extra],
        "normalizer": None,
        "pre_tokenizer": pre_tokenizer,
        "post_processor": None,
        "decoder": byte_level(use_regex=True),
        "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": ["a b"], **model},
    }


CJK_AND_KANA = "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+"
DEEPSEEK_V3_WORDS = (
    """[!"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+"""
    "| ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+"
)
DIGITS = {"type": "Digits", "individual_digits": True}
DECLARED = {
    "llama-bpe": (sequence(split(LLAMA3), byte_level(use_regex=False)), {"ignore_merges": True}),
    "smaug-bpe": (sequence(split(LLAMA3), byte_level(use_regex=False)), {}),
    "tekken": (sequence(split(TEKKEN), byte_level(use_regex=False)), {"ignore_merges": True}),
    "smollm": (sequence(DIGITS, byte_level(use_regex=True)), {}),
    "gpt-2": (byte_level(use_regex=True), {}),
    "bloom": (
        sequence(split(" ?[^(\\s|[.,!?\u2026\u3002\uff0c\u3001\u0964\u06d4\u060c])]+"), byte_level(use_regex=False)),
        {},
    ),
    "deepseek-v3": (
        sequence(split(r"\p{N}{1,3}"), split(CJK_AND_KANA), split(DEEPSEEK_V3_WORDS), byte_level(use_regex=False)),
        {},
    ),
    "deepseek-coder": (
        sequence(
            split("[\r\n]"),
            split(r"\s?\p{L}+"),
            split(r"\s?\p{P}+"),
            split("[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+"),
            DIGITS,
            byte_level(use_regex=False),
        ),
        {},
    ),
}


@pytest.mark.parametrize("name", DECLARED)
def test_declared_pre_tokenizer_is_recognised_after_tokens_were_added(name: str, tmp_path: Path) -> None:
    pre_tokenizer, model = DECLARED[name]
    write_json(tmp_path / "tokenizer.json", byte_level_json(pre_tokenizer, extra=(added(4, "<|new|>"),), **model))
    assert read_vocabulary(tmp_path, vocab_size=8).pre == name


def test_unknown_pre_tokenizer_shows_what_is_declared_and_how_to_name_it(tmp_path: Path) -> None:
    write_json(tmp_path / "tokenizer.json", byte_level_json(sequence(split("[xyz]+"), byte_level(use_regex=False))))
    with pytest.raises(TokenizerError, match=r"\[xyz\]\+") as caught:
        read_vocabulary(tmp_path, vocab_size=4)
    assert "--pre-tokenizer" in (caught.value.hint or "")
    assert read_vocabulary(tmp_path, vocab_size=4, pre_tokenizer="qwen2").pre == "qwen2"


def test_name_that_llama_cpp_does_not_know_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="llama-bep"):
        read_vocabulary(tmp_path, vocab_size=4, pre_tokenizer="llama-bep")


def test_merges_as_pairs_have_their_spaces_encoded(tmp_path: Path) -> None:
    tokenizer = byte_level_json(byte_level(use_regex=True), merges=[["a", "b"], ["a b", "a"]])
    write_json(tmp_path / "tokenizer.json", tokenizer)
    entries = {entry.key: entry.value for entry in vocabulary_metadata(read_vocabulary(tmp_path, vocab_size=4))}
    assert entries["tokenizer.ggml.merges"] == ("a b", "aĠb a")


def test_no_tokenizer_at_all_says_what_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match=r"tokenizer\.model.*tokenizer\.json"):
        read_vocabulary(tmp_path, vocab_size=4)


def test_tekken_alone_is_unsupported_and_says_how_to_get_tokenizer_json(tmp_path: Path) -> None:
    write_json(tmp_path / "tekken.json", {})
    with pytest.raises(UnsupportedError, match="tekken") as caught:
        read_vocabulary(tmp_path, vocab_size=4)
    assert "tokenizer.json" in (caught.value.hint or "")


def test_token_beyond_the_embeddings_names_token_id_and_size(tmp_path: Path) -> None:
    write_json(tmp_path / "tokenizer.json", byte_level_json(byte_level(use_regex=True), extra=(added(4, "<|new|>"),)))
    with pytest.raises(TokenizerError, match=r"<\|new\|>.*4.*4"):
        read_vocabulary(tmp_path, vocab_size=4)


def hostile(tmp_path: Path, **changes: object) -> Path:
    write_json(tmp_path / "tokenizer.json", {**byte_level_json(byte_level(use_regex=True)), **changes})
    return tmp_path


BPE = {"type": "BPE", "merges": ["a b"]}
HOSTILE: dict[str, dict[str, object]] = {
    "huge_id": {"model": {**BPE, "vocab": {"a": 0, "b": 10**12}}},
    "negative_id": {"model": {**BPE, "vocab": {"a": 0, "b": -1}}},
    "id_twice": {"model": {**BPE, "vocab": {"a": 0, "b": 0}}},
    "id_a_string": {"model": {**BPE, "vocab": {"a": "0"}}},
    "id_true": {"model": {**BPE, "vocab": {"a": True}}},
    "vocab_a_list": {"model": {**BPE, "vocab": ["a"]}},
    "model_a_string": {"model": "BPE"},
    "merges_of_numbers": {"model": {**BPE, "vocab": {"a": 0}, "merges": [1]}},
    "added_a_number": {"added_tokens": 7},
    "added_huge_id": {"added_tokens": [added(10**12, "x")]},
    "added_content_a_list": {"added_tokens": [{**added(3, "x"), "content": []}]},
    "pre_tokenizer_a_number": {"pre_tokenizer": 3},
    "steps_a_string": {"pre_tokenizer": {"type": "Sequence", "pretokenizers": "x"}},
    "step_a_number": {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [1]}},
    "post_processor_a_list": {"post_processor": [1]},
    "template_of_numbers": {"post_processor": {"type": "TemplateProcessing", "single": [1, 2]}},
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_tokenizer_json_is_an_error_and_not_a_crash(name: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError):
        read_vocabulary(hostile(tmp_path, **HOSTILE[name]), vocab_size=8)


HOSTILE_FILES = {
    "model_garbage": ("tokenizer.model", b"\x00\xff" * 500),
    "model_empty": ("tokenizer.model", b""),
    "json_deep": ("tokenizer.json", b"[" * 100_000),
    "json_not_utf8": ("tokenizer.json", b'{"a": "\xff"}'),
    "json_a_list": ("tokenizer.json", b"[]"),
    "json_cut": ("tokenizer.json", b'{"model": {'),
}


@pytest.mark.parametrize("name", HOSTILE_FILES)
def test_broken_file_is_an_error_that_names_it(name: str, tmp_path: Path) -> None:
    file, data = HOSTILE_FILES[name]
    (tmp_path / file).write_bytes(data)
    with pytest.raises(CheckpointError, match=file.replace(".", r"\.")):
        read_vocabulary(tmp_path, vocab_size=8)


def test_directory_in_the_place_of_tokenizer_json_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").mkdir()
    with pytest.raises(CheckpointError):
        read_vocabulary(tmp_path, vocab_size=8)


@pytest.mark.parametrize("vocab_size", [0, -1, 10**12])
def test_absurd_vocab_size_is_an_error_without_allocating(vocab_size: int, tmp_path: Path) -> None:
    with pytest.raises(ConvertError):
        read_vocabulary(hostile(tmp_path), vocab_size=vocab_size)


CONFIGS = {
    "class_a_number": {"tokenizer_class": 3},
    "prefix_space_a_string": {"add_prefix_space": "yes"},
    "decoder_key_a_word": {"added_tokens_decoder": {"x": {"content": "y"}}},
    "decoder_huge": {"added_tokens_decoder": {"9" * 5000: {"content": "y"}}},
    "decoder_a_list": {"added_tokens_decoder": [1]},
    "template_a_number": {"chat_template": 3},
    "templates_of_numbers": {"chat_template": [1]},
    "template_without_text": {"chat_template": [{"name": 3, "template": "x"}]},
    "bos_a_number": {"bos_token": 3},
}


@pytest.mark.parametrize("name", CONFIGS)
def test_wrong_type_in_tokenizer_config_is_an_error_and_not_a_crash(name: str, tmp_path: Path) -> None:
    write_json(tmp_path / "tokenizer_config.json", CONFIGS[name])
    with pytest.raises(CheckpointError):
        read_vocabulary(hostile(tmp_path), vocab_size=8)


def test_pad_token_id_of_minus_one_means_none(tmp_path: Path) -> None:
    write_json(tmp_path / "config.json", {"pad_token_id": -1, "eos_token_id": [1, 2], "bos_token_id": 3})
    entries = {
        entry.key: entry.value for entry in vocabulary_metadata(read_vocabulary(hostile(tmp_path), vocab_size=4))
    }
    assert "tokenizer.ggml.padding_token_id" not in entries
    assert "tokenizer.ggml.eos_token_id" not in entries
    assert entries["tokenizer.ggml.bos_token_id"] == 3


def test_vocabulary_of_49152_never_adds_bos(tmp_path: Path) -> None:
    write_json(tmp_path / "tokenizer_config.json", {"add_bos_token": True})
    entries = vocabulary_metadata(read_vocabulary(hostile(tmp_path), vocab_size=49152))
    assert [entry.value for entry in entries if entry.key == "tokenizer.ggml.add_bos_token"] == [False]


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
