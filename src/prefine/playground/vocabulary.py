"""The words of the playground's world and the one grammar that its sentences follow."""

import re
from collections.abc import Mapping
from types import MappingProxyType

NOUNS_OF_TOPIC: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "tea": (
            "kettle",
            "cup",
            "leaf",
            "steam",
            "spoon",
            "honey",
            "lemon",
            "pot",
            "saucer",
            "sugar",
        ),
        "sea": (
            "wave",
            "boat",
            "shell",
            "sail",
            "anchor",
            "gull",
            "tide",
            "harbor",
            "net",
            "whale",
        ),
        "garden": (
            "rose",
            "seed",
            "bee",
            "fence",
            "soil",
            "pond",
            "hedge",
            "rake",
            "tulip",
            "snail",
        ),
        "music": (
            "drum",
            "piano",
            "flute",
            "choir",
            "song",
            "violin",
            "bell",
            "singer",
            "chord",
            "stage",
        ),
        "winter": (
            "snow",
            "sled",
            "frost",
            "scarf",
            "icicle",
            "mitten",
            "skate",
            "stove",
            "coat",
            "slope",
        ),
        "space": (
            "star",
            "moon",
            "rocket",
            "comet",
            "planet",
            "orbit",
            "galaxy",
            "probe",
            "meteor",
            "crater",
        ),
        "forest": ("oak", "fox", "owl", "moss", "deer", "trail", "acorn", "pine", "fern", "badger"),
        "city": (
            "tower",
            "bridge",
            "tram",
            "street",
            "market",
            "square",
            "lamp",
            "taxi",
            "crowd",
            "clock",
        ),
        "farm": (
            "cow",
            "barn",
            "tractor",
            "hen",
            "goat",
            "field",
            "sheep",
            "hay",
            "farmer",
            "mill",
        ),
        "school": (
            "desk",
            "pencil",
            "teacher",
            "lesson",
            "chalk",
            "book",
            "pupil",
            "ruler",
            "atlas",
            "exam",
        ),
        "kitchen": (
            "oven",
            "knife",
            "bowl",
            "soup",
            "bread",
            "onion",
            "pan",
            "apron",
            "butter",
            "recipe",
        ),
        "castle": (
            "king",
            "queen",
            "knight",
            "dragon",
            "sword",
            "moat",
            "crown",
            "throne",
            "gate",
            "banner",
        ),
        "desert": (
            "camel",
            "dune",
            "cactus",
            "sand",
            "lizard",
            "oasis",
            "tent",
            "mirage",
            "well",
            "caravan",
        ),
        "sport": (
            "ball",
            "goal",
            "coach",
            "team",
            "racket",
            "whistle",
            "medal",
            "runner",
            "helmet",
            "court",
        ),
        "train": (
            "engine",
            "ticket",
            "station",
            "rail",
            "wagon",
            "signal",
            "tunnel",
            "driver",
            "platform",
            "seat",
        ),
        "art": (
            "brush",
            "canvas",
            "easel",
            "palette",
            "frame",
            "sketch",
            "mural",
            "portrait",
            "artist",
            "statue",
        ),
    }
)

ADJECTIVES_OF_TONE: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "cheerful": ("bright", "happy", "lovely", "merry", "sunny", "jolly"),
        "gloomy": ("grey", "sad", "weary", "lonely", "bitter", "dull"),
        "dreamy": ("soft", "misty", "silver", "gentle", "hazy", "quiet"),
        "fierce": ("wild", "loud", "fiery", "sharp", "savage", "bold"),
    }
)

NEUTRAL_ADJECTIVES = ("small", "large", "old", "new", "round", "plain")

VERBS = (
    *("meets", "likes", "follows", "finds", "moves", "needs", "holds", "hides", "keeps", "touches"),
    *(
        "watches",
        "misses",
        "helps",
        "joins",
        "carries",
        "covers",
        "visits",
        "trusts",
        "guards",
        "leaves",
    ),
)

DETERMINERS = ("the", "this")

TOPICS = tuple(NOUNS_OF_TOPIC)
TONES = tuple(ADJECTIVES_OF_TONE)

TOPIC_OF_NOUN: Mapping[str, str] = MappingProxyType(
    {noun: topic for topic, nouns in NOUNS_OF_TOPIC.items() for noun in nouns}
)
TONE_OF_ADJECTIVE: Mapping[str, str] = MappingProxyType(
    {adjective: tone for tone, adjectives in ADJECTIVES_OF_TONE.items() for adjective in adjectives}
)

WORD_CLASS: Mapping[str, str] = MappingProxyType(
    {
        **dict.fromkeys(DETERMINERS, "D"),
        **dict.fromkeys((*TONE_OF_ADJECTIVE, *NEUTRAL_ADJECTIVES), "A"),
        **dict.fromkeys(TOPIC_OF_NOUN, "N"),
        **dict.fromkeys(VERBS, "V"),
        "is": "I",
    }
)
"""The class of each word that an answer may use: Determiner, Adjective, Noun, Verb, or "is"."""

ROOMY_SHAPES = ("DANVDN", "DNVDAN")
SHAPES = (*ROOMY_SHAPES, "DNIA")
"""The shapes of sentence that demonstrations use, as word classes; `is_grammatical` accepts a few more."""

_GRAMMATICAL = re.compile(r"DA?N(?:VDA?N|IA)")


def is_grammatical(words: tuple[str, ...]) -> bool:
    """True where the words, without the final period, are one sentence of the world that says no word twice.

    Determiners may recur ("the cup meets the spoon"); a content word may not ("the cup meets the
    cup").
    """
    # The longest sentence has seven words: refuse longer input before building a string from it.
    if len(words) > 7:
        return False
    content = [word for word in words if word not in DETERMINERS]
    classes = "".join(WORD_CLASS.get(word, "?") for word in words)
    return _GRAMMATICAL.fullmatch(classes) is not None and len(set(content)) == len(content)
