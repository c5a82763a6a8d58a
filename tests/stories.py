"""Short stories of our own to train on: sentence patterns filled with names, animals, things and places.

`tests/data/tiny-llama` was trained on what `tell_story` tells, seeded, so a change here changes the model.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from story_plots import PLOTS

if TYPE_CHECKING:
    import random


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
