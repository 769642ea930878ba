"""Test prompts that were trained on: exactly, or nearly, by MinHash."""

import unicodedata
from collections.abc import Mapping
from typing import NamedTuple

from prefine.errors import ConfigError
from prefine.metrics.statistics.intervals import percentage
from prefine.metrics.texts.diversity import ngrams
from prefine.records import MetricValue

HASHES = 256
"""Hash functions of a MinHash signature."""


class Match(NamedTuple):
    """A test text and the training text that is most like it.

    Attributes:
        test: Id of the test text.
        train: Id of the training text.
        similarity: Jaccard similarity of their word n-grams, exact; 1 for the same text.
    """

    test: str
    train: str
    similarity: float


class Overlap(NamedTuple):
    """The test texts that training texts are the same as, or nearly.

    Attributes:
        rate: Their share of all test texts, in %.
        matches: One for each of them, in the order of the test texts: the most similar training
            text, the first given of several.
    """

    rate: MetricValue
    matches: tuple[Match, ...]


def exact_overlap(train: Mapping[str, str], test: Mapping[str, str]) -> Overlap:
    """The test texts that are in the training texts, but for case, white space and Unicode form.

    Args:
        train: Training texts by id.
        test: Test texts by id.

    Raises:
        ValueError: No training or no test text.
    """
    _some(train, test)
    known: dict[str, str] = {}
    for id_, text in train.items():
        known.setdefault(normalised(text), id_)
    found = {id_: known.get(normalised(text)) for id_, text in test.items()}
    matches = tuple(Match(id_, other, 1.0) for id_, other in found.items() if other is not None)
    return _overlap("exact_overlap", matches, test)


def near_overlap(
    train: Mapping[str, str],
    test: Mapping[str, str],
    *,
    threshold: float = 0.7,
    n: int = 3,
    seed: int = 0,
) -> Overlap:
    """The test texts with nearly the same word n-grams as a training text, or exactly the same.

    MinHash finds candidates and the Jaccard similarity of each is then computed exactly: what is
    reported is true. What is missed is a pair at the threshold with a chance of at most 1 in 1,000,
    and a more similar one less often.

    Args:
        train: Training texts by id.
        test: Test texts by id.
        threshold: Least Jaccard similarity that counts, from 0.3 to 1. Default: ours.
        n: Words in an n-gram; a text of fewer words is one gram of its own. Default: ours.
        seed: Seed of the hash functions.

    Raises:
        ValueError: No training or no test text, or a threshold out of range.
        ConfigError: The package rensa is missing.
    Source: Broder (1997), "On the resemblance and containment of documents"; signatures by the
        library rensa.
    """
    _some(train, test)
    if not 0.3 <= threshold <= 1:
        raise ValueError(f"threshold must be from 0.3 to 1, got {threshold}")
    try:
        from rensa import RMinHash, RMinHashLSH
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"near overlap needs the package {error.name!r}; install prefine[evaluate]"
        ) from error
    train_grams = [_grams(text, n) for text in train.values()]
    test_grams = [_grams(text, n) for text in test.values()]
    index = RMinHashLSH(threshold=threshold, num_perm=HASHES, num_bands=bands(threshold))
    index.insert_many(RMinHash.from_token_sets(_tokens(train_grams), num_perm=HASHES, seed=seed))
    candidates = index.query_all(
        RMinHash.from_token_sets(_tokens(test_grams), num_perm=HASHES, seed=seed)
    )
    names = list(train)
    matches = []
    for id_, grams, places in zip(test, test_grams, candidates, strict=True):
        scored = [(_jaccard(grams, train_grams[place]), -place) for place in places]
        similarity, place = max(scored, default=(0.0, 0))
        if similarity >= threshold:
            matches.append(Match(id_, names[-place], similarity))
    return _overlap("near_overlap", tuple(matches), test)


def bands(threshold: float) -> int:
    """The number of bands of `HASHES`: as few as miss a pair at the threshold once in 1,000."""
    cuts = (rows for rows in (16, 8, 4, 2) if (1 - threshold**rows) ** (HASHES // rows) <= 1e-3)
    return HASHES // next(cuts, 1)


def normalised(text: str) -> str:
    """The text in Unicode's composed compatible form, case folded, white space as single spaces."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def _grams(text: str, n: int) -> frozenset[str]:
    return frozenset(ngrams(normalised(text), n=n, grams="words"))


def _tokens(sets: list[frozenset[str]]) -> list[list[bytes]]:
    """As bytes, for lone surrogates; sorted, for a set's order changes from run to run."""
    return [sorted(gram.encode("utf-8", "surrogatepass") for gram in grams) for grams in sets]


def _jaccard(one: frozenset[str], other: frozenset[str]) -> float:
    return len(one & other) / len(one | other)


def _some(train: Mapping[str, str], test: Mapping[str, str]) -> None:
    for name, texts in (("train", train), ("test", test)):
        if not texts:
            raise ValueError(f"{name}: there is no text to compare")


def _overlap(name: str, matches: tuple[Match, ...], test: Mapping[str, str]) -> Overlap:
    caught = {match.test for match in matches}
    return Overlap(percentage(name, [id_ in caught for id_ in test]), matches)
