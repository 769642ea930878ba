"""Diversity of samples: ends of the scale, the plain double loop, unbiasedness, what is refused."""

import itertools
import math
from collections import Counter

import numpy as np
import pytest

from prefine.metrics.texts.diversity import adjusted_distinct, diversity, ngrams

WORDS = ["a", "b", "c", "d", "e", "f", "g"]


def cosine(one: str, other: str, **options) -> float:
    a, b = Counter(ngrams(one, **options)), Counter(ngrams(other, **options))
    lengths = math.sqrt(sum(x * x for x in a.values()) * sum(x * x for x in b.values()))
    return sum(a[g] * b[g] for g in a) / lengths


def random_samples(prompts: int, size: int, seed: int) -> dict[str, list[str]]:
    rng = np.random.default_rng(seed)
    return {
        f"p{i}": [" ".join(rng.choice(WORDS, rng.integers(0, 9))) for _ in range(size)]
        for i in range(prompts)
    }


@pytest.mark.parametrize("options", [{"n": 2, "grams": "words"}, {"n": 3, "grams": "characters"}])
def test_against_all_pairs(options):
    samples = random_samples(5, 4, 0)
    found = diversity(samples, **options)
    within = [
        np.mean([1 - cosine(a, b, **options) for a, b in itertools.combinations(texts, 2)])
        for texts in samples.values()
    ]
    across = [
        1 - cosine(a, b, **options)
        for one, other in itertools.combinations(samples.values(), 2)
        for a in one
        for b in other
    ]
    assert found.within_prompts.value == pytest.approx(np.mean(within))
    assert found.across_prompts.value == pytest.approx(np.mean(across))
    assert (
        found.within_prompts.name == f"diversity_within_prompts_{options['n']}_{options['grams']}"
    )
    assert found.within_prompts.n == found.across_prompts.n == found.distinct.n == 5


def test_jackknife_error_is_that_of_leaving_prompts_out():
    samples = random_samples(6, 3, 1)
    left = [
        diversity({p: s for p, s in samples.items() if p != out}, samples=2).across_prompts.value
        for out in samples
    ]
    expected = math.sqrt(5 / 6 * ((np.array(left) - np.mean(left)) ** 2).sum())
    assert diversity(samples).across_prompts.standard_error == pytest.approx(expected)


def test_ends_of_the_scale():
    same = diversity({"p": ["x y z"] * 3, "q": ["x y z"] * 3})
    assert (same.within_prompts.value, same.across_prompts.value) == pytest.approx(
        (0, 0), abs=1e-12
    )
    assert same.distinct.value == pytest.approx(2 / 6)
    apart = diversity({"p": ["a b", "c d"], "q": ["e f", "g h"]})
    assert (apart.within_prompts.value, apart.across_prompts.value, apart.distinct.value) == (
        1,
        1,
        1,
    )
    told_apart = diversity({"p": ["a b"] * 2, "q": ["e f"] * 2})
    assert (told_apart.within_prompts.value, told_apart.across_prompts.value) == (
        pytest.approx(0, abs=1e-12),
        1,
    )


def test_more_samples_do_not_change_the_expectation():
    few = [
        diversity(random_samples(3, 2, seed), samples=2).within_prompts.value for seed in range(150)
    ]
    many = [
        diversity(random_samples(3, 8, seed), samples=2).within_prompts.value for seed in range(150)
    ]
    error = math.hypot(np.std(few), np.std(many)) / math.sqrt(150)
    assert abs(np.mean(few) - np.mean(many)) < 3 * error


def test_short_and_empty_texts_are_grams_of_their_own():
    assert ngrams("a b c", n=2, grams="words") == ["a b", "b c"]
    assert ngrams("  a ", n=2, grams="words") == ["a"]
    assert ngrams("abc", n=2, grams="characters") == ["ab", "bc"]
    assert ngrams("", n=2, grams="characters") == [""]
    found = diversity({"p": ["", ""], "q": ["", "word"]})
    assert found.within_prompts.value == pytest.approx(0.5)


def test_order_of_prompts_and_samples_does_not_matter():
    samples = random_samples(4, 3, 2)
    turned = {prompt: texts[::-1] for prompt, texts in reversed(samples.items())}
    for one, other in zip(diversity(samples), diversity(turned), strict=True):
        assert one.value == pytest.approx(other.value)
        assert one.interval == pytest.approx(other.interval)


@pytest.mark.parametrize(
    ("samples", "options", "message"),
    [
        ({"p": ["a", "b"]}, {}, "at least two prompts, got 1"),
        (
            {"p": ["a", "b"], "q": ["a"]},
            {},
            "1 of 2 prompts have fewer than two samples, first 'q'",
        ),
        ({"p": ["a", "b"], "q": ["a", "b"]}, {"n": 0}, "n must be at least 1, got 0"),
        (
            {"p": ["a", "b"], "q": ["a", "b"]},
            {"grams": "tokens"},
            "grams must be 'words' or 'characters'",
        ),
    ],
)
def test_refusals(samples, options, message):
    with pytest.raises(ValueError, match=message):
        diversity(samples, **options)


def test_distinct_over_what_chance_gives():
    samples = {"p": ["a b a", "b"], "q": ["a c"]}
    # 1-grams a b a b a c, 2-grams "a b", "b a", "b", "a c", 3-grams "a b a", "b", "a c".
    shares = [
        3 / (10 * (1 - 0.9**6)),
        4 / (10 * (1 - 0.9**4)),
        3 / (10 * (1 - 0.9**3)),
    ]
    found = adjusted_distinct(samples, longest=3, vocabulary=10)
    assert found.value == pytest.approx(sum(shares) / 3, rel=1e-12)
    assert (found.name, found.n) == ("adjusted_distinct_3_words", 2)
    rng = np.random.default_rng(3)
    few, many = (
        {f"p{n}": [" ".join(map(str, rng.integers(0, 50, 20)))] for n in range(count)}
        for count in (4, 400)
    )
    for drawn in (few, many):
        assert adjusted_distinct(drawn, longest=1, vocabulary=50).value == pytest.approx(1, abs=0.1)
    with pytest.raises(ValueError, match="needs samples"):
        adjusted_distinct({})
