"""What a tokenizer.json declares, and the name that llama.cpp has for the same splitting: a table.

A row is matched by structure, so a fine-tune that only added tokens is recognised, and it is sound where the regexes
that llama.cpp uses under the name (src/llama-vocab.cpp, llm_tokenizer_bpe @ 0c1e570) split as the declared steps do.
Several names often share one behaviour; `tokens`, `normalizer` and `ignore_merges` then tell whose tokenizer it is,
and otherwise the row has the name that the reference gives the commonest model of the Llama kind.

`source` says where the declared structure was seen: a real tokenizer.json, or llama.cpp's own note of the original
regex. The four that ollama/ollama convert/tokenizer.go @ 040a8e8 knows by digest agree with it: llama-bpe, qwen2,
deepseek-llm, deepseek-coder.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

Step = tuple[object, ...]  # the step's type and what changes its behaviour, as `pre_tokenizer` reads them


def split(regex: str) -> Step:
    """Return the step that cuts a regex's matches out as pieces of their own."""
    return ("Split", regex, "Isolated")


@dataclass(frozen=True, slots=True)
class PreTokenizerRow:
    """One declared structure.

    steps: all of them, in order. normalizer: the steps it must have, or None for none or NFC (llama.cpp normalizes
    nothing). ignore_merges: what the model must say, None if it does not matter. tokens: all must be in the vocabulary.
    """

    name: str
    steps: tuple[Step, ...]
    source: str
    normalizer: tuple[Step, ...] | None = None
    ignore_merges: bool | None = None
    tokens: tuple[str, ...] = ()


BYTES: Final[Step] = ("ByteLevel", False)  # add_prefix_space; a regex of its own is written as a step before it
DIGITS: Final[Step] = ("Digits", True)
NFC: Final[tuple[Step, ...]] = (("NFC",),)
SPACE_IS_BOUNDARY: Final[tuple[Step, ...]] = (("Replace", " ", "\u2581"),)

_CONTRACTIONS: Final = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_CASED_WORD: Final = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*",
)
_SYMBOLS_AND_SPACE: Final = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_SYMBOLS_AND_SPACE_SLASH: Final = r" ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"

GPT2_REGEX: Final = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
LLAMA3_REGEX: Final = rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}|{_SYMBOLS_AND_SPACE}"
QWEN2_REGEX: Final = rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}|{_SYMBOLS_AND_SPACE}"
QWEN35_REGEX: Final = (
    rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?[\p{{L}}\p{{M}}]+|\p{{N}}"
    r"| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
MINICPM5_REGEX: Final = rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}+|{_SYMBOLS_AND_SPACE}"
UFAKZEKA_REGEX: Final = rf"[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}|{_SYMBOLS_AND_SPACE}"
TEKKEN_REGEX: Final = rf"{_CASED_WORD[0]}|{_CASED_WORD[1]}|\p{{N}}|{_SYMBOLS_AND_SPACE_SLASH}"
GPT4O_REGEX: Final = (
    rf"{_CASED_WORD[0]}{_CONTRACTIONS}?|{_CASED_WORD[1]}{_CONTRACTIONS}?|\p{{N}}{{1,3}}|{_SYMBOLS_AND_SPACE_SLASH}"
)
SEED_CODER_REGEX: Final = (
    rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1}}"
    r"| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+|\s+(?!\S)|\s+"
)
JAIS2_REGEX: Final = (
    rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]+"
    r"|\s{512}(?!\S)|\s{256}(?!\S)|\s{128}(?!\S)|\s{64}(?!\S)|\s{32}(?!\S)|\s{16}(?!\S)|\s{8}(?!\S)"
    r"|\s{4}(?!\S)|\s{1,2}(?!\S)|\s{1}"
)
BLOOM_REGEX: Final = " ?[^(\\s|[.,!?\u2026\u3002\uff0c\u3001\u0964\u06d4\u060c])]+"
DEEPSEEK_V3_WORDS: Final = (
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
    r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
).replace(r"\"", '"')
CJK_AND_KANA: Final = "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+"
CJK_AND_HANGUL: Final = "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+"
DEEPSEEK_SYMBOLS: Final = "\\s?[!-/:-~\uff01-\uff0f\uff1a-\uff5e\u2018-\u201f\u3000-\u3002]+"
DEEPSEEK_LETTERS: Final = (  # cased letters; three ends are U+1F7D, U+1FD3 and U+1FDB, not what NFC makes of them
    "\\s?[A-Za-z\xb5\xc0-\xd6\xd8-\xf6\xf8-\u01ba\u01bc-\u01bf\u01c4-\u0293\u0295-\u02af\u0370-\u0373"
    "\u0376\u0377\u037b-\u037d\u037f\u0386\u0388-\u038a\u038c\u038e-\u03a1\u03a3-\u03f5\u03f7-\u0481"
    "\u048a-\u052f\u0531-\u0556\u10a0-\u10c5\u13a0-\u13f5\u13f8-\u13fd\u1c90-\u1cba\u1cbd-\u1cbf\u1d00-"
    "\u1d2b\u1d6b-\u1d77\u1d79-\u1d9a\u1e00-\u1f15\u1f18-\u1f1d\u1f20-\u1f45\u1f48-\u1f4d\u1f50-\u1f57"
    "\u1f59\u1f5b\u1f5d\u1f5f-\u1f7d\u1f80-\u1fb4\u1fb6-\u1fbc\u1fbe\u1fc2-\u1fc4\u1fc6-\u1fcc\u1fd0-"
    "\u1fd3\u1fd6-\u1fdb\u1fe0-\u1fec\u1ff2-\u1ff4\u1ff6-\u1ffc\u2102\u2107\u210a-\u2113\u2115\u2119-"
    "\u211d\u2124\u2126\u2128\u212a-\u212d\u212f-\u2134\u2139\u213c-\u213f\u2145-\u2149\u214e\u2183\u2184"
    "\u2c00-\u2c7b\u2c7e-\u2ce4\u2ceb-\u2cee\u2cf2\u2cf3\ua640-\ua66d\ua680-\ua69b\ua722-\ua76f\ua771-"
    "\ua787\ua78b-\ua78e\uab70-\uabbf\ufb00-\ufb06\ufb13-\ufb17\uff21-\uff3a\uff41-\uff5a\U00010400-"
    "\U0001044f\U000104b0-\U000104d3\U000104d8-\U000104fb\U00010c80-\U00010cb2\U00010cc0-\U00010cf2"
    "\U000118a0-\U000118df\U0001e900-\U0001e943]+"
)

PRE_TOKENIZERS: Final[tuple[PreTokenizerRow, ...]] = (
    PreTokenizerRow(
        "pixtral",
        (split(LLAMA3_REGEX), BYTES),
        "Mistral's tokens with Llama 3's regex: what transformers' TikTokenConverter made before it knew Mistral's",
        ignore_merges=True,
        tokens=("[INST]", "[AVAILABLE_TOOLS]", "[IMG]"),
    ),
    PreTokenizerRow(
        "glm4",
        (split(LLAMA3_REGEX), BYTES),
        "llama-vocab.cpp: Llama 3's regex; by tokens only GLM-4 has, since llama.cpp takes no BOS of it",
        tokens=("[gMASK]", "<sop>", "<|observation|>"),
    ),
    PreTokenizerRow(
        "lfm2",
        (split(LLAMA3_REGEX), BYTES),
        "llama-vocab.cpp: Llama 3's regex; by tokens only LFM2 has",
        tokens=("<|startoftext|>", "<|tool_list_start|>"),
    ),
    PreTokenizerRow(
        "llama-bpe",
        (split(LLAMA3_REGEX), BYTES),
        "meta-llama/Meta-Llama-3-8B tokenizer.json",
        ignore_merges=True,
    ),
    PreTokenizerRow(
        "smaug-bpe",
        (split(LLAMA3_REGEX), BYTES),
        "abacusai/Smaug-Llama-3-70B-Instruct: Llama 3's before `ignore_merges`; dbrx behaves the same",
        ignore_merges=False,
    ),
    PreTokenizerRow(
        "tekken",
        (split(TEKKEN_REGEX), BYTES),
        "mistralai/Mistral-Nemo-Base-2407; transformers, MistralConverter",
        ignore_merges=True,
    ),
    PreTokenizerRow(
        "minimax-m2",
        (split(GPT4O_REGEX), BYTES),
        "llama-vocab.cpp: GPT-4o's regex; by tokens only MiniMax has",
        tokens=("]~!b[", "[e~["),
    ),
    PreTokenizerRow(
        "gpt-4o",
        (split(GPT4O_REGEX), BYTES),
        "llama-vocab.cpp's note of the original regex; openai/tiktoken o200k_base; llama4 behaves the same",
    ),
    PreTokenizerRow(
        "qwen2",
        (split(QWEN2_REGEX), BYTES),
        "Qwen/Qwen2-7B tokenizer.json; transformers, Qwen2Tokenizer; deepseek-r1-qwen behaves the same",
    ),
    PreTokenizerRow(
        "qwen35",
        (split(QWEN35_REGEX), BYTES),
        "llama-vocab.cpp's note of the original regex",
    ),
    PreTokenizerRow(
        "ufakzeka",
        (split(UFAKZEKA_REGEX), BYTES),
        "llama-vocab.cpp: the regex as it stands",
    ),
    PreTokenizerRow(
        "minicpm5",
        (split(r"\p{N}{1,3}"), split(MINICPM5_REGEX), BYTES),
        "llama-vocab.cpp's note of the original regexes (openbmb/MiniCPM5-1B)",
        ignore_merges=True,
    ),
    PreTokenizerRow(
        "seed-coder",
        (split(SEED_CODER_REGEX), BYTES),
        "llama-vocab.cpp's note of the original regex (ByteDance-Seed/Seed-Coder-8B-Base)",
    ),
    PreTokenizerRow(
        "jais-2",
        (split(JAIS2_REGEX), BYTES),
        "llama-vocab.cpp's note of the original regex",
    ),
    PreTokenizerRow(
        "deepseek-v3",
        (split(r"\p{N}{1,3}"), split(CJK_AND_KANA), split(DEEPSEEK_V3_WORDS), BYTES),
        # The reference's hash has the BOS in it that transformers 4.57, which it asks for, adds for LlamaTokenizerFast;
        # transformers 5 adds none, and the same tokenizer is then joyai-llm.
        "deepseek-ai/DeepSeek-V3 tokenizer.json; hunyuan-dense and joyai-llm behave the same",
    ),
    PreTokenizerRow(
        "deepseek-llm",
        (
            split(r"[\r\n]"),
            split(DEEPSEEK_LETTERS),
            split(DEEPSEEK_SYMBOLS),
            split(r"\s+$"),
            split(CJK_AND_HANGUL),
            DIGITS,
            BYTES,
        ),
        "deepseek-ai/deepseek-llm-7b-base tokenizer.json",
    ),
    PreTokenizerRow(
        "deepseek-coder",
        (split(r"[\r\n]"), split(r"\s?\p{L}+"), split(r"\s?\p{P}+"), split(CJK_AND_HANGUL), DIGITS, BYTES),
        "deepseek-ai/deepseek-coder-6.7b-instruct tokenizer.json",
    ),
    PreTokenizerRow(
        "command-r",
        (DIGITS, split(GPT2_REGEX), BYTES),
        "CohereForAI/c4ai-command-r-v01 tokenizer.json",
        normalizer=NFC,
    ),
    PreTokenizerRow(
        "refact",
        (DIGITS, split(GPT2_REGEX), BYTES),
        "smallcloudai/Refact-1_6B-fim tokenizer.json: StarCoder 1 and Granite Code, by tokens only they have",
        tokens=("<fim_prefix>", "<gh_stars>", "<commit_before>"),
    ),
    PreTokenizerRow(
        "starcoder",
        (DIGITS, split(GPT2_REGEX), BYTES),
        "bigcode/starcoder2-3b: StarCoder 2, by tokens only it has",
        tokens=("<fim_prefix>", "<file_sep>", "<pr>"),
    ),
    PreTokenizerRow(
        "smollm",
        (DIGITS, split(GPT2_REGEX), BYTES),
        "HuggingFaceTB/SmolLM2-360M-Instruct tokenizer.json; starcoder, refact, codeshell and exaone split the same",
    ),
    PreTokenizerRow(
        "olmo",
        (split(GPT2_REGEX), BYTES),
        "EleutherAI/gpt-neox-20b tokenizer.json, which the reference calls so; mpt behaves the same",
        normalizer=NFC,
    ),
    PreTokenizerRow(
        "gpt-2",
        (split(GPT2_REGEX), BYTES),
        "openai-community/gpt2 tokenizer.json; transformers, GPT2Tokenizer",
    ),
    PreTokenizerRow(
        "falcon",
        (("Punctuation", "Contiguous"), split(GPT2_REGEX), BYTES, ("Digits", False), split("[0-9][0-9][0-9]")),
        "tiiuae/falcon-7b tokenizer.json",
    ),
    PreTokenizerRow(
        "viking",
        (split(BLOOM_REGEX), DIGITS, BYTES),
        "bloom's regex, then single digits: what llama-vocab.cpp does for LumiOpen/Viking-7B",
    ),
    PreTokenizerRow(
        "bloom",
        (split(BLOOM_REGEX), BYTES),
        "bigscience/bloom tokenizer.json; poro-chat and gpt3-finnish split the same",
    ),
    PreTokenizerRow(
        "granite-embed-multi-311m",
        (("SplitString", " ", "MergedWithPrevious"),),  # finds nothing: the normalizer leaves no space
        "google/gemma-3 tokenizer.json, which the reference calls so; by a token only it has; gemma4 behaves the same",
        normalizer=SPACE_IS_BOUNDARY,
        tokens=("<start_of_image>",),
    ),
)

# src/llama-vocab.cpp, llama_vocab::impl::load @ 0c1e570: every name it knows for a BPE vocabulary.
KNOWN_NAMES: Final = frozenset(
    (
        "a.x-4.0",
        "afmoe",
        "bailingmoe",
        "bailingmoe2",
        "bloom",
        "chameleon",
        "chatglm-bpe",
        "codeshell",
        "cohere2moe",
        "command-r",
        "dbrx",
        "deepseek-coder",
        "deepseek-llm",
        "deepseek-r1-qwen",
        "deepseek-v3",
        "default",
        "exaone",
        "exaone-moe",
        "exaone4",
        "f2llmv2",
        "falcon",
        "falcon-h1",
        "falcon3",
        "gemma4",
        "gigachat",
        "glm4",
        "glm5",
        "gpt-2",
        "gpt-4o",
        "gpt3-finnish",
        "granite-docling",
        "granite-embed-multi-311m",
        "granite-embed-multi-97m",
        "grok-2",
        "hunyuan",
        "hunyuan-dense",
        "hy_v4",
        "jais",
        "jais-2",
        "jina-de",
        "jina-es",
        "jina-v1-en",
        "jina-v2-code",
        "jina-v2-de",
        "jina-v2-es",
        "jina-v5-nano",
        "joyai-llm",
        "kanana2",
        "kimi-k2",
        "kormo",
        "laguna",
        "lfm2",
        "llada-moe",
        "llama-bpe",
        "llama-v3",
        "llama3",
        "llama4",
        "megrez",
        "mellum",
        "mellum2",
        "midm-2.0",
        "minerva-7b",
        "minicpm5",
        "minimax-m2",
        "modern-bert",
        "mpt",
        "olmo",
        "phi-2",
        "pixtral",
        "poro-chat",
        "qwen2",
        "qwen35",
        "refact",
        "roberta-bpe",
        "sarvam-moe",
        "seed-coder",
        "smaug-bpe",
        "smollm",
        "solar-open",
        "spark2_5",
        "stablelm2",
        "starcoder",
        "superbpe",
        "talkie",
        "tekken",
        "tiny_aya",
        "trillion",
        "ufakzeka",
        "viking",
        "whitespace",
        "youtu",
    )
)

if not {row.name for row in PRE_TOKENIZERS} <= KNOWN_NAMES:
    raise AssertionError("a row has a name that llama.cpp does not know")
if len({(row.steps, row.normalizer, row.ignore_merges, row.tokens) for row in PRE_TOKENIZERS}) != len(PRE_TOKENIZERS):
    raise AssertionError("two rows declare the same")
