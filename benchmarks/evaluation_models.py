"""Invariances and refusals of comparisons, numbers of the papers, MinHash against all pairs.

python benchmarks/evaluation_models.py
"""

import math
from collections.abc import Callable, Iterator

import numpy as np

from evaluation_statistics import IDS, PROMPTS, judged
from line import Line
from prefine.metrics.rewards.accuracy import log_ratio_margins
from prefine.metrics.rewards.likelihood_indicators import token_spread
from prefine.metrics.rewards.ranking_accuracy import (
    dpo_loss_threshold,
    idealised_ranking_accuracy,
    ranked_right,
    ranking_accuracy,
)
from prefine.metrics.statistics.paired import Outcomes, compare
from prefine.metrics.texts.diversity import ngrams
from prefine.metrics.texts.overlap import near_overlap, normalised
from prefine.metrics.win_rates.win_rates import win_rate


def properties() -> Iterator[Line]:
    """Permutations, swaps, copies, a model against itself; each on 200 random evaluations."""
    rng, runs = np.random.default_rng(5), 200
    permuted = swapped = itself = copied = 0
    for _ in range(runs):
        a, b = judged(rng, 0.3, soft=bool(rng.integers(2)))
        one, other = Outcomes(IDS, a), Outcomes(IDS, b)
        base = compare(one, other, samples=100, flips=99)
        order = rng.permutation(PROMPTS)
        permuted += (
            compare(Outcomes([IDS[i] for i in order], a[order]), other, samples=100, flips=99)
            == base
        )
        turned = compare(other, one, samples=100, flips=99)
        low, high = base.difference.interval or (0, 0)
        turned_low, turned_high = turned.difference.interval or (0, 0)
        swapped += (
            abs(base.difference.value + turned.difference.value) < 1e-9
            and abs(low + turned_high) + abs(high + turned_low) < 1e-9
            and (base.wins, base.sign_test, base.mean_test)
            == (turned.losses, turned.sign_test, turned.mean_test)
        )
        self_difference = compare(one, one, samples=100, flips=99).difference
        itself += self_difference.value == 0 and self_difference.interval == (0, 0)
        ids = IDS + [f"{id_} again" for id_ in IDS]
        double = compare(
            Outcomes(ids, np.concatenate([a, a])),
            Outcomes(ids, np.concatenate([b, b])),
            samples=2,
            flips=99,
        )
        same_rate = abs(win_rate(np.concatenate([a, a])).value - win_rate(a).value) < 1e-9
        copied += same_rate and abs(double.difference.value - base.difference.value) < 1e-9
    for what, count in (
        ("rows of one model permuted: nothing changes", permuted),
        ("models swapped: signs change, p values do not", swapped),
        ("a model against itself: 0, interval 0 to 0", itself),
        ("every prompt twice: same win rate, same difference", copied),
    ):
        yield Line(what, f"{count} of {runs}", count == runs)


def bad_input() -> Iterator[Line]:
    """Input that must be an error that says what is wrong."""
    good = Outcomes(["p", "q"], [1.0, 0.0])
    for what, outcomes in {
        "different prompt sets": Outcomes(["p", "r"], [1.0, 0.0]),
        "a prompt missing": Outcomes(["p"], [1.0]),
        "duplicated rows": Outcomes(["p", "q", "q"], [1.0, 0.0, 0.0]),
        "NaN": Outcomes(["p", "q"], [1.0, math.nan]),
        "outside [0, 1]": Outcomes(["p", "q"], [1.0, 1.5]),
    }.items():
        yield _refused(f"paired: {what}", lambda outcomes=outcomes: compare(good, outcomes))
    one = Outcomes(["p"], [1.0])
    yield _refused("paired: one row", lambda: compare(one, one))
    yield _refused("win rate: NaN", lambda: win_rate([1.0, math.nan]))
    yield _refused(
        "ranking accuracy: lengths that differ",
        lambda: ranking_accuracy([1.0, 2.0], [1.0], ["p", "q"]),
    )
    single = win_rate([1.0])
    shown = f"n = {single.n}, interval {single.interval}"
    yield Line(
        "win rate: one row has no interval", shown, single.n == 1 and single.interval is None
    )


def known_answers() -> Iterator[Line]:
    """The worked numbers of the papers' formulas."""
    mass, raw, shape, _ = (
        float(part[0]) for part in token_spread(np.zeros((1, 100)), [True], k=10)
    )
    ok = (
        abs(mass - 0.1) < 1e-12
        and abs(raw + math.log(0.01) / 10) < 1e-12
        and abs(shape - math.log(10)) < 1e-12
    )
    figure = f"mass {mass:.3f}, H {raw:.4f}, renormalised {shape:.4f}; expected .1, .4605, 2.3026"
    yield Line("uniform over 100 tokens, k = 10", figure, ok)
    threshold = float(dpo_loss_threshold([-30.0], [0.0], beta=0.1)[0])
    figure = f"{threshold:.7f}, expected .0485874"
    yield Line("loss threshold, beta .1, c 30", figure, abs(threshold - 0.0485874) < 5e-8)
    found = idealised_ranking_accuracy([-2.0], [0.0], [0.75], ["p"], betas=(0.1, 0.5, 1.0))
    right = [metric.value for _, metric in found.by_beta]
    yield Line(
        "idealised: alpha .75, log-ratio -2",
        f"{right}, expected right, right, wrong",
        right == [100, 100, 0],
    )
    rng, pairs = np.random.default_rng(6), 100_000
    lw, ll, rw, rl = rng.normal(-50, 20, (4, pairs))
    loss = np.logaddexp(0, -0.1 * log_ratio_margins(lw, ll, rw, rl))
    same = int(((loss <= dpo_loss_threshold(rw, rl, beta=0.1)) == ranked_right(lw, ll)).sum())
    yield Line("right iff loss <= threshold, random pairs", f"{same:,} of {pairs:,}", same == pairs)


def overlap() -> Iterator[Line]:
    """MinHash against all pairs: texts of 4 to 40 words, half with up to 8 words changed."""
    rng = np.random.default_rng(7)
    words = [f"w{i}" for i in range(2_000)]
    train = {f"train{i}": " ".join(rng.choice(words, rng.integers(4, 40))) for i in range(1_000)}
    test = {}
    for i, text in enumerate(train.values()):
        changed = text.split()
        for place in rng.integers(0, len(changed), rng.integers(0, 9)):
            changed[place] = str(rng.choice(words))
        test[f"test{i}"] = " ".join(changed)
    sets = [
        frozenset(ngrams(normalised(text), n=3, grams="words"))
        for text in (*train.values(), *test.values())
    ]
    for threshold in (0.5, 0.7, 0.9):
        near = {
            f"test{i}"
            for i, own in enumerate(sets[1_000:])
            if any(len(own & other) >= threshold * len(own | other) for other in sets[:1_000])
        }
        found = {match.test for match in near_overlap(train, test, threshold=threshold).matches}
        figure = f"{len(found & near)} of {len(near)} found, {len(found - near)} false"
        yield Line(f"near overlap at {threshold}", figure, found == near)


def rows() -> Iterator[Line]:
    """All of them."""
    for part in (properties, bad_input, known_answers, overlap):
        yield from part()


def _refused(what: str, call: Callable[[], object]) -> Line:
    try:
        call()
    except ValueError as error:
        return Line(what, f"ValueError: {error}", True)
    return Line(what, "accepted", False)


if __name__ == "__main__":
    for line in rows():
        print(line, flush=True)
