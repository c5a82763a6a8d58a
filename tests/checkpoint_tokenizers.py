"""The tokenizer files of the test checkpoints, and what stands in their tokenizer_config.json."""

from __future__ import annotations

import random
import shutil
from pathlib import Path
from typing import Any, Final

from stories import tell_story

TINY_LLAMA: Final = Path(__file__).parent / "data" / "tiny-llama"
SHARED_TOKENIZERS: Final = Path(__file__).parents[2] / "shared" / "fixtures" / "tokenizers"


def write_tokenizer_model(folder: Path) -> None:
    """Write sentencepiece's own file only, as Llama 1 and 2 had it before tokenizer.json."""
    shutil.copyfile(TINY_LLAMA / "tokenizer.model", folder / "tokenizer.model")


def write_tokenizer_json(folder: Path) -> None:
    """Write the fast tokenizer's file only, as many a fine-tune is saved."""
    shutil.copyfile(TINY_LLAMA / "tokenizer.json", folder / "tokenizer.json")


def write_both_tokenizers(folder: Path) -> None:
    """Write both files."""
    write_tokenizer_model(folder)
    write_tokenizer_json(folder)


def write_gpt2_tokenizer(folder: Path) -> None:
    """Write GPT-2's published vocabulary and merges: byte-level BPE that the reference recognises."""
    for file_name in ("vocab.json", "merges.txt"):
        shutil.copyfile(SHARED_TOKENIZERS / "gpt2" / file_name, folder / file_name)


def write_byte_level_bpe(folder: Path) -> None:
    """Write a byte-level BPE of our own, which declares what Llama 3's tokenizer.json declares."""
    import tokenizers
    from tokenizers import Regex, decoders, models, pre_tokenizers, processors, trainers

    tokenizer = tokenizers.Tokenizer(models.BPE(ignore_merges=True))
    split = pre_tokenizers.Split(Regex(LLAMA_3_PATTERN), behavior="isolated")
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=598, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()), show_progress=False
    )
    rng = random.Random(8)  # noqa: S311  # stories, not secrets
    tokenizer.train_from_iterator([tell_story(rng) for _ in range(200)], trainer)
    tokenizer.add_special_tokens(["<|begin_of_text|>", "<|end_of_text|>"])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<|begin_of_text|> $A", special_tokens=[("<|begin_of_text|>", 598)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))


# The regex in the tokenizer.json of meta-llama/Meta-Llama-3-8B.
LLAMA_3_PATTERN: Final = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
TOKENIZER_CONFIG: Final = {
    "add_bos_token": True,
    "add_eos_token": False,
    "bos_token": "<s>",
    "clean_up_tokenization_spaces": False,
    "eos_token": "</s>",
    "legacy": False,
    "model_max_length": 2048,
    "tokenizer_class": "LlamaTokenizer",
    "unk_token": "<unk>",
}
CHAT_TEMPLATE: Final = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>\n' + message['content'] + eos_token }}{% endfor %}"
)


def added_token(content: str, *, special: bool) -> dict[str, Any]:
    flags = dict.fromkeys(("lstrip", "normalized", "rstrip", "single_word"), False)
    return {"content": content, **flags, "special": special}


LLAMA_2_ADDED: Final = {
    str(index): added_token(text, special=True) for index, text in enumerate(("<unk>", "<s>", "</s>"))
}

TWO_ADDED: Final = LLAMA_2_ADDED | {
    "1024": added_token("<|im_start|>", special=True),
    "1025": added_token("<think>", special=False),
}
