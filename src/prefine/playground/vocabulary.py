"""The words of the playground's world and the grammar of its sentences."""

import re
from collections.abc import Mapping


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


NOUNS_OF_TOPIC: Mapping[str, tuple[str, ...]] = {
    "tea": _words("kettle cup leaf steam spoon honey lemon pot saucer sugar"),
    "sea": _words("wave boat shell sail anchor gull tide harbor net whale"),
    "garden": _words("rose seed bee fence soil pond hedge rake tulip snail"),
    "music": _words("drum piano flute choir song violin bell singer chord stage"),
    "winter": _words("snow sled frost scarf icicle mitten skate stove coat slope"),
    "space": _words("star moon rocket comet planet orbit galaxy probe meteor crater"),
    "forest": _words("oak fox owl moss deer trail acorn pine fern badger"),
    "city": _words("tower bridge tram street market square lamp taxi crowd clock"),
    "farm": _words("cow barn tractor hen goat field sheep hay farmer mill"),
    "school": _words("desk pencil teacher lesson chalk book pupil ruler atlas exam"),
    "kitchen": _words("oven knife bowl soup bread onion pan apron butter recipe"),
    "castle": _words("king queen knight dragon sword moat crown throne gate banner"),
    "desert": _words("camel dune cactus sand lizard oasis tent mirage well caravan"),
    "sport": _words("ball goal coach team racket whistle medal runner helmet court"),
    "train": _words("engine ticket station rail wagon signal tunnel driver platform seat"),
    "art": _words("brush canvas easel palette frame sketch mural portrait artist statue"),
}

ADJECTIVES_OF_TONE: Mapping[str, tuple[str, ...]] = {
    "cheerful": _words("bright happy lovely merry sunny jolly"),
    "gloomy": _words("grey sad weary lonely bitter dull"),
    "dreamy": _words("soft misty silver gentle hazy quiet"),
    "fierce": _words("wild loud fiery sharp savage bold"),
}

NEUTRAL_ADJECTIVES = _words("small large old new round plain")

VERBS = _words(
    "meets likes follows finds moves needs holds hides keeps touches "
    "watches misses helps joins carries covers visits trusts guards leaves"
)

DETERMINERS = ("the", "this")

TOPICS = tuple(NOUNS_OF_TOPIC)
TONES = tuple(ADJECTIVES_OF_TONE)

TOPIC_OF_NOUN: Mapping[str, str] = {
    noun: topic for topic, nouns in NOUNS_OF_TOPIC.items() for noun in nouns
}
TONE_OF_ADJECTIVE: Mapping[str, str] = {
    adjective: tone for tone, adjectives in ADJECTIVES_OF_TONE.items() for adjective in adjectives
}

WORD_CLASS: Mapping[str, str] = {
    **dict.fromkeys(DETERMINERS, "D"),
    **dict.fromkeys((*TONE_OF_ADJECTIVE, *NEUTRAL_ADJECTIVES), "A"),
    **dict.fromkeys(TOPIC_OF_NOUN, "N"),
    **dict.fromkeys(VERBS, "V"),
    "is": "I",
}
"""The class of each word that an answer may use: Determiner, Adjective, Noun, Verb, or "is"."""

ROOMY_SHAPES = ("DANVDN", "DNVDAN")
SHAPES = (*ROOMY_SHAPES, "DNIA")
"""The sentence shapes of demonstrations, as word classes; `is_grammatical` accepts a few more."""

_GRAMMATICAL = re.compile(r"DA?N(?:VDA?N|IA)")


def is_grammatical(words: tuple[str, ...]) -> bool:
    """Return True if the words, without the final period, are one sentence of the world.

    Determiners may recur ("the cup meets the spoon"), a content word may not ("the cup meets the
    cup").
    """
    # The longest sentence has seven words; longer input is not worth building a string from.
    if len(words) > 7:
        return False
    content = [word for word in words if word not in DETERMINERS]
    classes = "".join(WORD_CLASS.get(word, "?") for word in words)
    return _GRAMMATICAL.fullmatch(classes) is not None and len(set(content)) == len(content)
