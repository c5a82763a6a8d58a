"""Which pre-tokenizer a byte-level BPE declares, by llama.cpp's name for it.

The reference knows a tokenizer by a hash of the ids that one text gets, so any new vocabulary is unknown to it. Here
the declaration itself is recognised: tokenizer.json's normalizer and pre-tokenizer, regexes included. A fine-tune that
only added tokens declares what its base model does.
Source of the names and of what llama.cpp does for each: src/llama-vocab.cpp, llama_vocab::impl::load @ 0c1e570.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from convert.errors import TokenizerError, UsageError

if TYPE_CHECKING:
    from convert.tokenizer.files import TokenizerFiles

# Steps as `_steps` writes them, one a line.
_GPT2: Final = ("ByteLevel",)
_LLAMA3: Final = (
    (
        r"Split (?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
        r"|\s*[\r\n]+|\s+(?!\S)|\s+"
    ),
    "ByteLevel without regex",
)
_QWEN2: Final = (
    (
        r"Split (?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
        r"|\s*[\r\n]+|\s+(?!\S)|\s+"
    ),
    "ByteLevel without regex",
)
_TEKKEN: Final = (
    (
        r"Split [^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
        r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
        r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    ),
    "ByteLevel without regex",
)
_DEEPSEEK_LLM: Final = (
    r"Split [\r\n]",
    r"Split \s?[A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕἠ-ὅὈ-Ὅὐ-ὗὙὛὝὟ-ώᾀ-ᾴᾶ-ᾼιῂ-ῄῆ-ῌῐ-ΐῖ-Ίῠ-Ῥῲ-ῴῶ-ῼℂℇℊ-ℓℕℙ-ℝℤΩℨK-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳꙀ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃]+",  # noqa: E501, RUF001
    r"Split \s?[!-/:-~！-／：-～‘-‟　-。]+",  # noqa: RUF001
    r"Split \s+$",
    r"Split [一-龥ࠀ-一가-퟿]+",
    "Digits one by one",
    "ByteLevel without regex",
)
_DEEPSEEK_CODER: Final = (
    r"Split [\r\n]",
    r"Split \s?\p{L}+",
    r"Split \s?\p{P}+",
    r"Split [一-龥ࠀ-一가-퟿]+",
    "Digits one by one",
    "ByteLevel without regex",
)
_DEEPSEEK_V3: Final = (
    r"Split \p{N}{1,3}",
    r"Split [一-龥぀-ゟ゠-ヿ]+",  # noqa: RUF001
    (
        r"Split [!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
        r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    ),
    "ByteLevel without regex",
)
_FALCON: Final = (
    "Punctuation Contiguous",
    "ByteLevel",
    "Digits together",
    "Split [0-9][0-9][0-9]",
)

# Where several upstream names stand for one declaration, and llama.cpp does the same for them, the name is the one the
# reference gives for the commonest model: "smollm" is also starcoder's and refact's, "olmo" also mpt's and gpt-neox's.
_NAMES: Final[Mapping[tuple[str, ...], str]] = {
    _GPT2: "gpt-2",
    ("NFC", *_GPT2): "olmo",
    ("Digits one by one", "ByteLevel"): "smollm",
    ("NFC", "Digits one by one", "ByteLevel"): "command-r",
    ("NFC", *_QWEN2): "qwen2",
    _QWEN2: "deepseek-r1-qwen",
    _TEKKEN: "tekken",
    _DEEPSEEK_LLM: "deepseek-llm",
    _DEEPSEEK_CODER: "deepseek-coder",
    _DEEPSEEK_V3: "deepseek-v3",
    _FALCON: "falcon",
}
# Llama 3's declaration stands for two names; they differ in whether whole words of the vocabulary skip the merges.
_LLAMA3_NAMES: Final = {True: "llama-bpe", False: "smaug-bpe"}

KNOWN_NAMES: Final = (
    "kimi-k2",
    "default",
    "minicpm5",
    "llama3",
    "llama-v3",
    "llama-bpe",
    "falcon3",
    "falcon-h1",
    "pixtral",
    "midm-2.0",
    "lfm2",
    "jina-v5-nano",
    "deepseek-llm",
    "deepseek-coder",
    "deepseek-v3",
    "spark2_5",
    "youtu",
    "falcon",
    "mpt",
    "starcoder",
    "gpt-2",
    "phi-2",
    "jina-es",
    "jina-de",
    "gigachat",
    "jina-v2-es",
    "jina-v2-de",
    "a.x-4.0",
    "mellum",
    "modern-bert",
    "jais-2",
    "gemma4",
    "granite-embed-multi-311m",
    "sarvam-moe",
    "jina-v1-en",
    "jina-v2-code",
    "roberta-bpe",
    "whitespace",
    "refact",
    "command-r",
    "qwen2",
    "deepseek-r1-qwen",
    "kormo",
    "f2llmv2",
    "qwen35",
    "stablelm2",
    "olmo",
    "dbrx",
    "smaug-bpe",
    "poro-chat",
    "chatglm-bpe",
    "glm4",
    "glm5",
    "viking",
    "jais",
    "tekken",
    "smollm",
    "codeshell",
    "bloom",
    "gpt3-finnish",
    "exaone",
    "exaone4",
    "exaone-moe",
    "chameleon",
    "minerva-7b",
    "megrez",
    "gpt-4o",
    "llama4",
    "kanana2",
    "talkie",
    "granite-embed-multi-97m",
    "tiny_aya",
    "cohere2moe",
    "superbpe",
    "trillion",
    "granite-docling",
    "bailingmoe",
    "bailingmoe2",
    "llada-moe",
    "seed-coder",
    "hunyuan",
    "hunyuan-dense",
    "hy_v4",
    "joyai-llm",
    "ufakzeka",
    "grok-2",
    "afmoe",
    "laguna",
    "minimax-m2",
    "solar-open",
    "mellum2",
)


def check_pre_tokenizer(name: str) -> None:
    """Raise UsageError if llama.cpp knows no pre-tokenizer of this name."""
    if name not in KNOWN_NAMES:
        raise UsageError(
            f"llama.cpp knows no pre-tokenizer `{name}`", hint=f"known are {', '.join(sorted(KNOWN_NAMES))}"
        )


def recognise_pre_tokenizer(files: TokenizerFiles) -> str:
    """Name the declared pre-tokenizer; raises TokenizerError that shows the declaration if it is not known."""
    steps = declared_steps(files)
    if steps == _LLAMA3:
        model = (files.tokenizer_json or {}).get("model")
        ignores = isinstance(model, Mapping) and model.get("ignore_merges") is True
        return _LLAMA3_NAMES[ignores]
    name = _NAMES.get(steps)
    if name is None:
        raise TokenizerError(
            f"the tokenizer in `{files.directory}` declares a pre-tokenizer that is not known: "
            f"{'; '.join(steps) or 'none'}",
            hint="say which of llama.cpp's it is with --pre-tokenizer NAME, for example the one of the base model: "
            + ", ".join(sorted(KNOWN_NAMES)),
        )
    return name


def declared_steps(files: TokenizerFiles) -> tuple[str, ...]:
    """Write down the declared normalizer and pre-tokenizer, a step each.

    vocab.json without tokenizer.json declares nothing: it is Qwen2's if the tokenizer's class is, else GPT-2's.
    """
    tokenizer = files.tokenizer_json
    if tokenizer is None:
        kind = str(files.tokenizer_config.get("tokenizer_class", "")).removesuffix("Fast")
        return ("NFC", *_QWEN2) if kind == "Qwen2Tokenizer" else _GPT2
    normalizer = _flat(tokenizer.get("normalizer"), "normalizers")
    return (*map(_kind, normalizer), *map(_step, _flat(tokenizer.get("pre_tokenizer"), "pretokenizers")))


def _flat(entry: object, key: str) -> list[Mapping[str, Any]]:
    if not isinstance(entry, Mapping):
        return []
    if entry.get("type") != "Sequence":
        return [entry]
    parts = entry.get(key)
    return [step for part in parts for step in _flat(part, key)] if isinstance(parts, list) else []


def _kind(entry: Mapping[str, Any]) -> str:
    return str(entry.get("type"))


def _step(entry: Mapping[str, Any]) -> str:
    kind = _kind(entry)
    if kind == "ByteLevel":
        return kind if entry.get("use_regex", True) else "ByteLevel without regex"
    if kind == "Digits":
        return "Digits one by one" if entry.get("individual_digits") else "Digits together"
    if kind == "Punctuation":
        return f"Punctuation {entry.get('behavior', 'Isolated')}"
    if kind == "Split":
        return _split(entry)
    return kind


def _split(entry: Mapping[str, Any]) -> str:
    pattern = entry.get("pattern")
    regex = pattern.get("Regex", pattern.get("String")) if isinstance(pattern, Mapping) else pattern
    # A control character may stand in the regex itself or be escaped in it: the same.
    spelled = str(regex).replace("\r", r"\r").replace("\n", r"\n").replace("\t", r"\t")
    behavior = entry.get("behavior", "Isolated")
    how = (
        ""
        if behavior in ("Isolated", "Removed") and not (behavior == "Removed" and not entry.get("invert"))
        else f" {behavior}"
    )
    return f"Split{how} {spelled}"
