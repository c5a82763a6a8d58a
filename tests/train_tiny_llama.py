"""Train `tests/data/tiny-llama`, a small real Llama checkpoint of our own, and save it as transformers saves one.

    python tests/train_tiny_llama.py OUTDIR

How it was made: about 7 minutes on one core of an x86-64 machine with AVX-512, torch 2.13.0, transformers 5.23.0,
sentencepiece 0.2.3, tokenizers 0.23.3. Everything is seeded (20) and runs on one thread, so the same machine and
versions give the same bytes; others give a model as good.

Text: nobody's but ours. `tell_story`, in `stories.py`, fills 224 sentence patterns with names, animals, things, places.
Model: 2 layers, 256 wide, 768 feed-forward, 8 heads over 4 key-value heads, tied embedding of 1024 tokens; 1.84 million
weights in float16. Every row is a multiple of 256 long, so no type falls back.
Training: 2600 steps of 2 rows of 512 tokens, AdamW; mean loss of the last 50 steps 0.485.

What it writes, greedily, after "Once upon a time", by llama-completion from the F16 file:

    , there was a boy named Hugo who loved pears. He had a squirrel that followed him everywhere. The grass was wet and
    smelled very good. One day, his grandfather gave Hugo a shiny basket. "Can I play with it, too?" asked Penny. "It is
    mine!" said Hugo. Then Jack had no one to play with. His grandfather said, "It is good to share." "You can have a
    turn," said Hugo with a smile. They played with the green basket until the sun went down. It was more fun to play
    together.

From the Q4_0 file the same, but for one name.
"""

from __future__ import annotations

import argparse
import io
import json
import random
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from stories import tell_story

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

SEED: Final = 20
STEPS: Final = 2600
BATCH: Final = 2
CONTEXT: Final = 512
PEAK_LEARNING_RATE: Final = 3e-3
VOCABULARY: Final = 1024
TOKENIZER_STORIES: Final = 4000
LARGEST_FLOAT16: Final = 65504.0
SPACE: Final = "\N{LOWER ONE EIGHTH BLOCK}"
SPECIAL_TOKENS: Final = ("<unk>", "<s>", "</s>")
TOKENIZER_CONFIG: Final[dict[str, Any]] = {
    "add_bos_token": True,
    "add_eos_token": False,
    "added_tokens_decoder": {
        str(index): dict.fromkeys(("lstrip", "normalized", "rstrip", "single_word"), False)
        | {"content": content, "special": True}
        for index, content in enumerate(SPECIAL_TOKENS)
    },
    "bos_token": "<s>",
    "clean_up_tokenization_spaces": False,
    "eos_token": "</s>",
    "legacy": False,
    "model_max_length": CONTEXT,
    "pad_token": None,
    "sp_model_kwargs": {},
    "tokenizer_class": "LlamaTokenizer",
    "unk_token": "<unk>",
}


def train_tokenizer(folder: Path) -> None:
    """Write `tokenizer.model`, as Llama's was made: BPE with byte fallback, a dummy prefix, digits split."""
    import sentencepiece

    rng = random.Random(SEED)  # noqa: S311  # stories, not secrets
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([tell_story(rng) for _ in range(TOKENIZER_STORIES)]),
        model_writer=model,
        model_type="bpe",
        vocab_size=VOCABULARY,
        byte_fallback=True,
        split_digits=True,
        allow_whitespace_only_pieces=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        character_coverage=1.0,
        num_threads=1,
        minloglevel=2,
    )
    (folder / "tokenizer.model").write_bytes(model.getvalue())


def write_tokenizer_files(folder: Path) -> None:
    """Write `tokenizer.json` and `tokenizer_config.json`, and check that they agree with `tokenizer.model`.

    The declared pipeline is the one that Llama 2 was published with.
    """
    import sentencepiece
    import tokenizers
    from tokenizers import decoders, models, normalizers, processors

    pieces = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    vocabulary = {pieces.id_to_piece(index): index for index in range(pieces.vocab_size())}
    merges = _merges(pieces, vocabulary)
    tokenizer = tokenizers.Tokenizer(
        models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)  # noqa: S106
    )
    tokenizer.add_special_tokens(list(SPECIAL_TOKENS))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE), normalizers.Replace(" ", SPACE)])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s>:1 $B:1", special_tokens=[("<s>", 1)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    text = json.dumps(TOKENIZER_CONFIG, indent=2, sort_keys=True) + "\n"
    (folder / "tokenizer_config.json").write_text(text, encoding="utf-8")
    _check_agreement(pieces, tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json")))


def _merges(pieces: Any, vocabulary: Mapping[str, int]) -> list[tuple[str, str]]:  # noqa: ANN401  # it has no types
    """Give every split of every piece into two pieces, by the piece's rank: what sentencepiece's BPE does."""
    ranked = sorted(vocabulary, key=lambda piece: -pieces.get_score(vocabulary[piece]))
    splits = []
    for piece in ranked:
        halves = [(piece[:cut], piece[cut:]) for cut in range(1, len(piece))]
        known = [(left, right) for left, right in halves if left in vocabulary and right in vocabulary]
        splits += sorted(known, key=lambda pair: (vocabulary[pair[0]], vocabulary[pair[1]]))
    return splits


def _check_agreement(pieces: Any, tokenizer: Any) -> None:  # noqa: ANN401  # neither has types
    rng = random.Random(SEED + 1)  # noqa: S311  # stories, not secrets
    hard = ("Zürich, 42  x\ty\nИ 日本 \N{GRINNING FACE}", " a", "  b ", "zzz", "1,234.50")
    for text in (*hard, *(tell_story(rng) for _ in range(500))):
        want, got = [pieces.bos_id(), *pieces.encode(text)], tokenizer.encode(text).ids
        if got != want:
            raise ValueError(f"tokenizer.json gives {got} for {text!r}, tokenizer.model {want}")


def token_rows(folder: Path) -> Iterator[list[int]]:
    """Yield rows of CONTEXT + 1 token ids for ever: stories one after the other, each <s> … </s>."""
    import sentencepiece

    pieces = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    rng = random.Random(SEED + 2)  # noqa: S311  # stories, not secrets
    while True:
        row: list[int] = []
        while len(row) <= CONTEXT:
            row += [pieces.bos_id(), *pieces.encode(tell_story(rng)), pieces.eos_id()]
        yield row[: CONTEXT + 1]


def train_model(rows: Iterator[list[int]]) -> tuple[Any, float]:
    """Train from nothing on one thread; return the model (float32) and the mean loss of the last 50 steps."""
    import torch
    import transformers

    torch.set_num_threads(1)  # the sums' order, so the weights, depend on the number of threads
    torch.manual_seed(SEED)
    model = transformers.LlamaForCausalLM(_config())
    decayed = [parameter for parameter in model.parameters() if parameter.dim() > 1]
    plain = [parameter for parameter in model.parameters() if parameter.dim() == 1]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=PEAK_LEARNING_RATE, betas=(0.9, 0.95))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK_LEARNING_RATE, total_steps=STEPS, pct_start=0.1)
    losses: list[float] = []
    started = time.monotonic()
    for step in range(STEPS):
        batch = torch.tensor([next(rows) for _ in range(BATCH)])
        logits = model(input_ids=batch[:, :-1]).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
        if step % 50 == 49:
            mean, spent = sum(losses[-50:]) / 50, time.monotonic() - started
            sys.stderr.write(f"step {step + 1} of {STEPS}: loss {mean:.3f}, {spent:.0f} s\n")
    return model, sum(losses[-50:]) / 50


def _config() -> Any:  # noqa: ANN401  # transformers publishes no types
    import transformers

    return transformers.LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=256,
        intermediate_size=768,
        num_hidden_layers=2,
        num_attention_heads=8,
        num_key_value_heads=4,
        max_position_embeddings=CONTEXT,
        rms_norm_eps=1e-5,
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=None,
    )


def save_model(model: Any, folder: Path) -> None:  # noqa: ANN401  # transformers publishes no types
    """Save in float16, after a look that no weight leaves its range."""
    import torch

    largest = max(parameter.abs().max().item() for parameter in model.parameters())
    if not largest < LARGEST_FLOAT16:
        raise ValueError(f"a weight of {largest} does not fit float16")
    model.to(torch.float16).save_pretrained(folder)


def sample(folder: Path, prompts: Sequence[str]) -> list[str]:
    """Continue each prompt greedily with the saved model."""
    import torch
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model: Any = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    told: list[str] = []
    for prompt in prompts:
        ids = torch.tensor([tokenizer.encode(prompt)])
        grown = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=160, do_sample=False)
        told.append(str(tokenizer.decode(grown[0], skip_special_tokens=True)))
    return told


def main() -> None:
    """Make the folder."""
    parser = argparse.ArgumentParser(description="train tests/data/tiny-llama")
    parser.add_argument("outdir", type=Path)
    folder: Path = parser.parse_args().outdir
    folder.mkdir(parents=True, exist_ok=True)
    train_tokenizer(folder)
    write_tokenizer_files(folder)
    model, loss = train_model(token_rows(folder))
    save_model(model, folder)
    facts = {"loss": round(loss, 4), "samples": sample(folder, ["Once upon a time", "One day, a boy"])}
    sys.stdout.write(json.dumps(facts, indent=2) + "\n")


if __name__ == "__main__":
    main()
