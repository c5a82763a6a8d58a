"""Train `tests/data/tiny-llama`, a small real Llama checkpoint of our own, and save it as transformers saves one.

    python tests/train_tiny_llama.py OUTDIR

How it was made: about 7 minutes on one core of an x86-64 machine with AVX-512, torch 2.13.0, transformers 5.23.0,
sentencepiece 0.2.3, tokenizers 0.23.3. Everything is seeded (20) and runs on one thread, so the same machine and
versions give the same bytes; others give a model as good.

Text: nobody's but ours. `tell_story` fills 224 sentence patterns with names, animals, things, places.
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
import re
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

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


def _words(line: str) -> list[str]:
    return line.split()


GIRLS: Final = _words("Anna Bella Clara Daisy Ella Fay Grace Holly Iris Jane Kate Lucy Mia Nora Olive Penny Rose Tess")
BOYS: Final = _words("Adam Ben Carl Dan Eric Finn Gus Hugo Ivan Jack Leo Max Ned Oscar Paul Sam Tom Will")
ANIMALS: Final = _words("cat dog rabbit duck fox mouse bear frog pony owl goat hen turtle squirrel sheep pig")
FOODS: Final = _words("apples bread soup cake cookies berries honey pears cheese pancakes carrots jam")
PLACES: Final = _words("park garden forest meadow village farm beach river hill market lake barn")
COLOURS: Final = _words("red blue green yellow white brown black orange pink golden")
SIZES: Final = _words("big small tiny little old new shiny pretty soft round")
THINGS: Final = _words(
    "ball kite boat hat box drum book cup basket bell doll lamp ribbon stone flower wagon whistle key"
)
FAMILY: Final = _words("mother father grandmother grandfather aunt uncle sister brother")
TRAITS: Final = _words("kind brave happy shy clever quiet funny gentle curious careful")

OPENINGS: Final = (
    "Once upon a time, there was a {trait} {child} named {name}.",
    "Once upon a time, a {trait} {child} named {name} lived near a {place}.",
    "Once upon a time, there was a {child} named {name} who loved {food}.",
    "Once upon a time, {name} and {friend} were best friends.",
    "Once upon a time, in a small house by the {place}, there lived a {child} named {name}.",
    "One day, a {child} named {name} went to the {place} with {her} {family}.",
    "One morning, {name} woke up early and looked out of the window.",
    "There was once a {trait} {child} called {name}.",
    "{name} was a {trait} {child} who lived with {her} {family}.",
    "Long ago, a {trait} {child} named {name} lived on a farm with a {animal}.",
)
HABITS: Final = (
    "{She} loved to play in the {place}.",
    "{She} had a {animal} that followed {her_object} everywhere.",
    "{She} liked to eat {food} with {her} {family}.",
    "{She} had a {thing} that {she} took everywhere.",
    "Every day, {she} walked to the {place} and sang a song.",
    "{Her} best friend was a {animal2} who lived by the {place}.",
    "{She} was always ready to help.",
    "{Her} {family} told {her_object} a story every night.",
    "{She} liked to draw, to run and to laugh.",
    "{She} wanted to see the whole world.",
)
WEATHER: Final = (
    "The sun was bright and the sky was blue.",
    "It was a cold and windy day.",
    "It was raining, but {name} did not mind.",
    "Snow was falling on the {place}.",
    "The birds were singing in the trees.",
    "The wind was soft and warm.",
    "There was not a cloud in the sky.",
    "It was a quiet morning.",
    "The grass was wet and smelled very good.",
    "The air was cool and the leaves were falling.",
)
PLOTS: Final[tuple[tuple[tuple[str, ...], ...], ...]] = (
    (  # lost and found
        (
            "One day, {name} could not find {her} {thing}.",
            "That day, {name} lost {her} {thing} in the {place}.",
            "But one day, the {thing} was gone.",
            "After lunch, {name} saw that {her} {thing} was missing.",
        ),
        (
            "{She} looked under the bed, but it was not there.",
            "{She} looked behind the door and in the kitchen.",
            "{She} was so sad that {she} began to cry.",
            '"Where is my {thing}?" {she} asked.',
            '"Have you seen my {thing}?" {she} asked {her} {family}.',
        ),
        (
            'Then {friend} came and said, "I will help you look for it."',
            "A {animal} heard {her_object} and wanted to help.",
            '{Her} {family} said, "Do not cry. We will find it together."',
            "{friend} took {her} hand and they walked to the {place}.",
        ),
        (
            "They looked and looked, and at last they found it under a tree.",
            "The {animal} had it in its mouth and gave it back.",
            "There it was, next to a {thing2}.",
            "At the {place}, {friend} saw something {colour} in the grass. It was the {thing}.",
        ),
        (
            "{name} was so happy that {she} danced.",
            '"Thank you!" said {name}. "You are a good friend."',
            "From that day on, {name} took good care of {her} {thing}.",
            "{name} gave everyone a big hug.",
        ),
    ),
    (  # an animal in trouble
        (
            "One day, {name} heard a small sound in the {place}.",
            "On the way to the {place}, {name} saw a little {animal}.",
            "{name} was walking to the {place} when {she} heard someone cry.",
            "Near the {place}, a {animal} was stuck in the mud.",
        ),
        (
            "It was a {animal}, and it was very cold.",
            "The {animal} was hungry and could not walk.",
            "The {animal} had hurt its leg.",
            "The poor {animal} was lost and wanted its mother.",
            '"Please help me," said the {animal}.',
        ),
        (
            '"Do not be afraid," said {name}. "I will help you."',
            "{name} picked up the {animal} and took it home.",
            "{name} ran to {her} {family} and asked for help.",
            "{She} gave the {animal} some {food} and some water.",
            "{name} put the {animal} in a warm {thing}.",
        ),
        (
            "Soon the {animal} felt much better.",
            "The next day, the {animal} could run and jump again.",
            "The {animal} ate the {food} and fell asleep.",
            "After some time, the {animal} opened its eyes and smiled.",
        ),
        (
            "The {animal} and {name} became good friends.",
            '"You are very kind," said the {animal}.',
            "Every day, the {animal} came back to play with {name}.",
            "{Her} {family} was proud of {her_object}.",
        ),
    ),
    (  # cooking together
        (
            "One day, {name} wanted to make {food} for {her} {family}.",
            "It was a special day, and {name} wanted to cook.",
            '"Can we make {food} today?" asked {name}.',
            "{name} and {friend} were hungry, so they went to the kitchen.",
        ),
        (
            "They needed milk, sugar and a big bowl.",
            "First, they went to the market to buy what they needed.",
            "{friend} washed the bowl and {name} found a spoon.",
            "{Her} {family} showed them how to do it.",
        ),
        (
            "But {friend} dropped the bowl and it broke.",
            "But the {animal} jumped on the table and ate it all.",
            "{name} put in too much salt, and it tasted bad.",
            "Oh no, the fire was too hot!",
        ),
        (
            '"It is all right," said {her} {family}. "We can try again."',
            "They cleaned the floor and started again.",
            "{name} was sad, but {she} did not give up.",
            '"I am sorry," said {friend}, and {name} smiled.',
        ),
        (
            "In the end, the {food} tasted very good.",
            "They all sat down and ate the {food} together.",
            "The whole house smelled of {food}.",
            "They shared the {food} with the {animal}, too.",
        ),
    ),
    (  # sharing
        (
            "One day, {her} {family} gave {name} a {thing}.",
            "{name} got a {thing} for {her} birthday.",
            "At the market, {name} saw a {thing} and bought it.",
            "{name} had a {thing}, and {friend} wanted to play with it.",
        ),
        (
            '"Can I play with it, too?" asked {friend}.',
            "{friend} had no {noun} and looked very sad.",
            "{friend} asked for a turn, but {name} said no.",
            '"It is mine!" said {name}.',
        ),
        (
            "{friend} went away and sat alone under a tree.",
            "Then {name} had no one to play with.",
            "{name} played alone, but it was not fun.",
            '{Her} {family} said, "It is good to share."',
        ),
        (
            "{name} thought about it and felt sorry.",
            "So {name} ran to {friend} and gave {him2} the {thing}.",
            '"I am sorry," said {name}. "Let us play together."',
            '"You can have a turn," said {name} with a smile.',
        ),
        (
            "They played with the {thing} until the sun went down.",
            '{friend} was happy and said, "Thank you!"',
            "{name} learned that sharing makes friends happy.",
            "It was more fun to play together.",
        ),
    ),
    (  # being brave
        (
            "One night, {name} heard a strange noise.",
            "{name} was afraid of the dark {place}.",
            "One evening, {name} had to walk home through the {place} alone.",
            "There was a big storm, and the light went out.",
        ),
        (
            '"Who is there?" {she} asked.',
            "{Her} heart was beating fast.",
            "{She} wanted to hide under {her} bed.",
            "{name} held {her} {thing} and took one small step.",
            "{She} saw two big eyes in the dark.",
        ),
        (
            '"I can be brave," {she} said to {her_object}self.',
            "{She} took a lamp and went to see what it was.",
            "{She} thought of what {her} {family} had told {her_object}.",
            "{She} counted to three and opened the door.",
        ),
        (
            "It was only a {animal}, looking for {food}.",
            "A little {animal} was sitting there, and it was afraid, too.",
            "It was {friend}, who had come to visit.",
            "It was just the wind in the trees.",
        ),
        (
            "{name} laughed and was not afraid any more.",
            "{She} went back to bed and slept well.",
            '{Her} {family} said, "You were very brave."',
            "After that night, {name} was never afraid of the dark.",
        ),
    ),
    (  # something in the garden
        (
            "In spring, {name} put a seed in the garden.",
            "{Her} {family} gave {name} three small seeds.",
            "{name} wanted to grow a {colour} flower.",
            "One day, {name} found a seed in an old box.",
        ),
        (
            "{She} gave it water every day.",
            "{She} waited and waited, but nothing came up.",
            "Each morning, {she} ran outside to look at it.",
            '"When will it grow?" {she} asked.',
        ),
        (
            '"You must wait," said {her} {family}.',
            "The rain came, and then the sun came, too.",
            'A {animal} wanted to eat it, but {name} said, "Please do not."',
            "{friend} helped {her_object} to pull out the weeds.",
        ),
        (
            "Then one morning, there was a little green leaf.",
            "At last, a {colour} flower opened in the sun.",
            "It grew and grew until it was taller than {name}.",
            "Soon there were flowers everywhere.",
        ),
        (
            "{name} gave the first flower to {her} {family}.",
            "All the bees came to say hello.",
            "{name} was proud of {her} garden.",
            "{name} learned that good things take time.",
        ),
    ),
    (  # a trip
        (
            "One day, {name} and {friend} made a plan to go to the {place2}.",
            '{Her} {family} said, "Let us go to the {place2} today."',
            "In summer, {name} went on a trip to the {place2}.",
            "{name} and {friend} found a map in an old book.",
        ),
        (
            "They packed {food} and a {thing}.",
            "They walked for a long time and sang songs.",
            "They went over the hill and across the river.",
            "On the way, they met a {animal} who wanted to come along.",
        ),
        (
            "But then they did not know the way.",
            "Then {friend} was tired and wanted to go home.",
            "Suddenly, it began to rain.",
            "The bridge was broken, and they could not cross.",
        ),
        (
            '"Follow me," said the {animal}. "I know the way."',
            "They sat under a tree and ate some {food}.",
            '{name} had an idea. "We can build a little boat," {she} said.',
            "They waited until the sun came out again.",
        ),
        (
            "At last, they came to the {place2}, and it was beautiful.",
            "They ran and played at the {place2} all day.",
            "When they came home, they told everyone about the trip.",
            "It was the best day of the year.",
        ),
    ),
    (  # learning something
        (
            "One day, {name} wanted to learn to swim.",
            "{name} wanted to ride a bike like {friend}.",
            "{name} could not sing, but {she} wanted to learn.",
            "{name} wanted to build a house for the {animal}.",
        ),
        (
            "At first, it was very hard.",
            "{She} tried, but {she} fell down.",
            '"I can not do it," said {name}.',
            "{She} tried again and again.",
        ),
        (
            '{friend} said, "I will show you."',
            '{Her} {family} said, "Try one more time."',
            "{name} took a deep breath and tried once more.",
            "A {animal} watched {her_object} and laughed.",
        ),
        (
            "Then, all at once, {she} could do it!",
            "Little by little, it became easy.",
            "This time, {she} did not fall.",
            '"Look at me!" {name} said.',
        ),
        (
            "Everyone clapped and was happy for {her_object}.",
            "{name} was very proud.",
            "{name} learned that you must never give up.",
            "The next day, {name} showed {friend} how to do it, too.",
        ),
    ),
    (  # a surprise
        (
            "It was {friend}'s birthday, and {name} had no gift.",
            "One day, {name} wanted to make a surprise for {friend}.",
            "{name} found a {thing} in front of the door.",
            "One morning, there was a big box on the table.",
        ),
        (
            '"What is in it?" asked {name}.',
            "{She} did not know what to do.",
            "{She} asked {her} {family} for help.",
            "{She} thought about it all morning.",
        ),
        (
            "{She} took some paper and made a {colour} {noun}.",
            "{She} opened it slowly and looked inside.",
            "Then {she} heard a sound, and something moved.",
            "{She} ran to the {place} and picked some flowers.",
        ),
        (
            "Inside, there was a little {animal}.",
            'When {friend} came, everyone said, "Surprise!"',
            "{friend} opened the box and began to smile.",
            "It was a {thing2}, just for {her_object}.",
        ),
        (
            '"This is the best gift of all," said {friend}.',
            "They ate cake and danced until night.",
            "{name} was so happy that {she} jumped up and down.",
            '"I will call you {name2}," said {name} to the {animal}.',
        ),
    ),
)
ENDINGS: Final = (
    "They lived happily ever after.",
    "And then they all went home.",
    "That night, {name} slept very well.",
    "{name} smiled and went to sleep.",
    "And from that day on, they were always good friends.",
    "They went home, tired and happy.",
    "It was a very good day.",
    "The end.",
    "{name} never forgot that day.",
    "And the {animal} was happy, too.",
)


def tell_story(rng: random.Random) -> str:
    """Tell one short story: an opening, a habit, a plot of five stages, an ending."""
    words = _choose_words(rng)
    plot = rng.choice(PLOTS)
    patterns = [rng.choice(OPENINGS), rng.choice(HABITS)]
    for number, stage in enumerate(plot):
        if number == 0 and rng.random() < 0.5:
            patterns.append(rng.choice(WEATHER))
        chosen = rng.sample(range(len(stage)), 2 if number and rng.random() < 0.4 else 1)
        patterns += [stage[index] for index in sorted(chosen)]
    if rng.random() < 0.7:
        patterns.append(rng.choice(ENDINGS))
    told = " ".join(pattern.format_map(words) for pattern in patterns)
    return re.sub(r"\b([Aa]) (?=[aeiou])", r"\1n ", told)


def _choose_words(rng: random.Random) -> dict[str, str]:
    girl, friend_is_girl = rng.random() < 0.5, rng.random() < 0.5
    name, name2 = rng.sample(GIRLS if girl else BOYS, 2)
    friend = rng.choice([other for other in (GIRLS if friend_is_girl else BOYS) if other not in {name, name2}])
    place, place2 = rng.sample(PLACES, 2)
    animal, animal2 = rng.sample(ANIMALS, 2)
    noun, noun2 = rng.sample(THINGS, 2)
    pronouns = ("she", "her", "her") if girl else ("he", "his", "him")
    adjective, colour2 = rng.choice((*COLOURS, *SIZES)), rng.choice(COLOURS)
    words = {"food": rng.choice(FOODS), "family": rng.choice(FAMILY), "trait": rng.choice(TRAITS)}
    words |= {"name": name, "name2": name2, "friend": friend, "child": "girl" if girl else "boy"}
    words |= {"place": place, "place2": place2, "animal": animal, "animal2": animal2, "colour": rng.choice(COLOURS)}
    words |= {"noun": noun, "thing": f"{adjective} {noun}", "thing2": f"{colour2} {noun2}"}
    words |= {"she": pronouns[0], "her": pronouns[1], "her_object": pronouns[2]}
    words |= {"She": pronouns[0].title(), "Her": pronouns[1].title(), "him2": "her" if friend_is_girl else "him"}
    return words


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
