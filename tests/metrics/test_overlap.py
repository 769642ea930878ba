"""Overlap of training and test texts: exact, near, against the plain double loop, and without
the library.
"""

import json
import sys

import numpy as np
import pytest

from prefine.errors import ConfigError
from prefine.metrics.texts.diversity import ngrams
from prefine.metrics.texts.overlap import HASHES, bands, exact_overlap, near_overlap, normalised


def grams(text: str) -> set[str]:
    return set(ngrams(normalised(text), n=3, grams="words"))


def variations(count: int, seed: int) -> tuple[dict[str, str], dict[str, str]]:
    """Training texts, and test texts that are some of them with a few words changed."""
    rng = np.random.default_rng(seed)
    words = [f"w{i}" for i in range(500)]
    train = {f"train{i}": " ".join(rng.choice(words, rng.integers(4, 40))) for i in range(count)}
    test = {}
    for i, text in enumerate(train.values()):
        changed = text.split()
        for place in rng.integers(0, len(changed), rng.integers(0, 4)):
            changed[place] = str(rng.choice(words))
        test[f"test{i}"] = " ".join(changed)
    return train, test


def test_exact_but_for_case_white_space_and_unicode_form():
    train = {"t1": "Write a Poem.", "t2": "write  a poem.", "t3": "cafe\u0301"}
    found = exact_overlap(train, {"a": " write a\npoem.", "b": "Write a poem", "c": "café"})
    assert [(m.test, m.train, m.similarity) for m in found.matches] == [
        ("a", "t1", 1.0),
        ("c", "t3", 1.0),
    ]
    assert (found.rate.name, found.rate.n) == ("exact_overlap", 3)
    assert found.rate.value == pytest.approx(200 / 3)


@pytest.mark.parametrize("threshold", [0.5, 0.7, 0.9])
def test_near_overlap_finds_what_the_double_loop_finds(threshold):
    train, test = variations(300, 0)
    expected, known = {}, {other: grams(text) for other, text in train.items()}
    for id_, text in test.items():
        own = grams(text)
        similarity = {
            other: len(own & theirs) / len(own | theirs) for other, theirs in known.items()
        }
        best = max(similarity, key=similarity.__getitem__)
        if similarity[best] >= threshold:
            expected[id_] = (best, similarity[best])
    found = near_overlap(train, test, threshold=threshold)
    assert {m.test: (m.train, m.similarity) for m in found.matches} == expected
    assert 20 < len(expected) < 300


def test_copies_are_near_and_a_seed_changes_nothing_that_is_found():
    train, test = variations(50, 1)
    assert {m.test for m in near_overlap(train, train).matches} == set(train)
    assert near_overlap(train, test, seed=0) == near_overlap(train, test, seed=3)


def test_short_empty_and_broken_texts():
    train = {"t": "Hi", "u": "", "v": "\ud800 x"}
    found = near_overlap(train, {"a": "hi", "b": " ", "c": "ho", "d": "\ud800 X"})
    assert [(m.test, m.train) for m in found.matches] == [("a", "t"), ("b", "u"), ("d", "v")]


@pytest.mark.parametrize("threshold", [0.3, 0.45, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0])
def test_bands_miss_at_most_one_in_a_thousand(threshold):
    rows = HASHES // bands(threshold)
    assert rows * bands(threshold) == HASHES
    assert (1 - threshold**rows) ** bands(threshold) <= 1e-3


def test_real_prompts_overlap_with_themselves_only(real_data):
    pools = []
    for pool in ("alpaca_eval_pool", "arena_bench_pool"):
        lines = (real_data / pool / "pool.jsonl").read_text(encoding="utf-8").split("\n")
        rows = [json.loads(line) for line in lines if line]
        pools.append({str(i): row["instruction"] for i, row in enumerate(rows)})
    assert len(pools[0]) == len(pools[1]) == 60
    assert near_overlap(pools[0], pools[0]).rate.value == 100
    assert near_overlap(pools[0], pools[1]).matches == ()
    assert exact_overlap(pools[0], pools[1]).rate.value == 0


def test_refusals(monkeypatch):
    with pytest.raises(ValueError, match="train: there is no text"):
        exact_overlap({}, {"a": "x"})
    with pytest.raises(ValueError, match="test: there is no text"):
        near_overlap({"a": "x"}, {})
    with pytest.raises(ValueError, match=r"threshold must be from 0.3 to 1, got 0.1"):
        near_overlap({"a": "x"}, {"a": "x"}, threshold=0.1)
    monkeypatch.setitem(sys.modules, "rensa", None)
    with pytest.raises(
        ConfigError, match=r"needs the package 'rensa'; install prefine\[evaluate\]"
    ):
        near_overlap({"a": "x"}, {"a": "x"})
