"""The belief about qualities, against conditioning done by hand, integrals and verdicts that
are really taken.
"""

import math
from itertools import combinations, permutations
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefine.ranking.fitting.belief import Belief
from prefine.ranking.noise import first_slot_logit
from prefine.ranking.protocol import Duel

PHI = NormalDist().cdf
# accuracy, order_noise, first_slot_bias
JUDGES = [(0.75, 0.5, 0.0), (0.65, 0.2, 0.9), (0.9, 0.8, -1.4)]
each_judge = pytest.mark.parametrize(("accuracy", "order_noise", "bias"), JUDGES)
verdicts = st.one_of(st.sampled_from([0.0, 1.0]), st.floats(0.001, 0.999))


class Joint:
    """Means and covariances of M qualities, all pair errors and all order errors, conditioned
    the schoolbook way.
    """

    def __init__(self, m: int, accuracy: float, order_noise: float, bias: float) -> None:
        self.m = m
        self.sigma = math.sqrt(2) * math.tan(math.pi * (1 - accuracy))
        self.bias = bias
        pairs, orders = list(combinations(range(m), 2)), list(permutations(range(m), 2))
        self.pair = {pair: m + k for k, pair in enumerate(pairs)}
        self.order = {order: m + len(pairs) + k for k, order in enumerate(orders)}
        variances = [1.0] * m
        variances += [(1 - order_noise) * self.sigma**2] * len(pairs) + [
            order_noise * self.sigma**2
        ] * len(orders)
        self.mean, self.cov = np.zeros(len(variances)), np.diag(variances)

    def row(self, duel: Duel) -> np.ndarray:
        """The margin without the slot bias, as a combination of the variables."""
        first, second = duel
        row = np.zeros(len(self.mean))
        row[first], row[second] = 1.0, -1.0
        row[self.pair[min(duel), max(duel)]] = 1.0 if first < second else -1.0
        row[self.order[first, second]] = 1.0
        return row

    def margin(self, duel: Duel) -> tuple[float, float]:
        """Its mean and variance."""
        row = self.row(duel)
        return float(row @ self.mean), float(row @ self.cov @ row)

    def state(self, duels: list[Duel], probabilities: list[float]) -> None:
        """Condition on all of these margins at once."""
        rows = np.array([self.row(duel) for duel in duels])
        stated = [self.sigma * (math.log(p / (1 - p)) - self.bias) / 3 for p in probabilities]
        gain = self.cov @ rows.T @ np.linalg.inv(rows @ self.cov @ rows.T)
        self.mean = self.mean + gain @ (stated - rows @ self.mean)
        self.cov = self.cov - gain @ rows @ self.cov

    def sign(self, duel: Duel, first_wins: bool) -> None:
        """Give one margin the mean and variance of its part above -bias, or below; everything
        else follows it.
        """
        row, (mean, variance) = self.row(duel), self.margin(duel)
        shift = self.sigma * NormalDist().inv_cdf(1 / (1 + math.exp(-self.bias)))
        x = np.linspace(mean - 12 * math.sqrt(variance), mean + 12 * math.sqrt(variance), 400_001)
        weight = np.exp(-((x - mean) ** 2) / (2 * variance)) * ((x + shift > 0) == first_wins)
        cut_mean = float(np.average(x, weights=weight))
        cut_variance = float(np.average((x - cut_mean) ** 2, weights=weight))
        along = self.cov @ row
        self.mean = self.mean + along * (cut_mean - mean) / variance
        self.cov = self.cov + np.outer(along, along) * (cut_variance / variance - 1) / variance

    def standard_errors(self) -> np.ndarray:
        """Of the centred qualities [M]."""
        centre = np.eye(self.m) - 1 / self.m
        return np.sqrt(np.diag(centre @ self.cov[: self.m, : self.m] @ centre))


def belief(m: int, accuracy: float = 0.75, order_noise: float = 0.5, bias: float = 0.0) -> Belief:
    return Belief(m, m * (m - 1), accuracy=accuracy, order_noise=order_noise, first_slot_bias=bias)


def spread(of: Belief) -> np.ndarray:
    """Standard errors of the centred qualities [quality sd], from those of the scores."""
    return of.log_odds()[1] * of.sigma / 1.702


def variance_of_pair(of: Belief) -> float:
    """Of the difference between two, in a belief about two."""
    return 4 * float(spread(of)[0]) ** 2


def assert_same(of: Belief, joint: Joint, tolerance: float = 1e-6) -> None:
    assert of.mean == pytest.approx(joint.mean[: joint.m], abs=tolerance)
    assert spread(of) == pytest.approx(joint.standard_errors(), abs=tolerance)


def sequence(m: int, count: int, seed: int) -> tuple[list[Duel], list[float]]:
    """Different ordered pairs, the second order of the first among them, and a probability for
    each.
    """
    rng = np.random.default_rng(seed)
    duels = [
        Duel(*map(int, pair)) for pair in rng.permutation(list(permutations(range(m), 2)))[:count]
    ]
    again = Duel(duels[0].second, duels[0].first)
    duels = [duel for duel in duels if duel != again] + [again]
    return duels, rng.uniform(0.02, 0.98, len(duels)).tolist()


# Stated margins.


@each_judge
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_stated_margins_are_conditioned_on(accuracy, order_noise, bias, seed):
    duels, probabilities = sequence(5, 9, seed)
    one, joint = belief(5, accuracy, order_noise, bias), Joint(5, accuracy, order_noise, bias)
    assert one.sigma == pytest.approx(joint.sigma)
    for duel, p in zip(duels, probabilities, strict=True):
        one.take(duel, p)
    joint.state(duels, probabilities)
    assert_same(one, joint)


@given(data=st.data(), m=st.integers(2, 5), seed=st.integers(0, 99), judge=st.sampled_from(JUDGES))
@settings(max_examples=30)
def test_the_order_of_stated_margins_does_not_matter(data, m, seed, judge):
    pairs = list(zip(*sequence(m, m, seed), strict=True))
    one, other = belief(m, *judge), belief(m, *judge)
    for duel, p in pairs:
        one.take(duel, p)
    for duel, p in data.draw(st.permutations(pairs)):
        other.take(duel, p)
    assert one.mean == pytest.approx(other.mean, abs=1e-6)
    assert spread(one) == pytest.approx(spread(other), abs=1e-6)


def test_a_probability_that_the_bias_alone_explains_moves_nobody():
    one = belief(3, bias=0.8)
    one.take(Duel(2, 0), 1 / (1 + math.exp(-0.8)))
    assert one.mean == pytest.approx(np.zeros(3), abs=1e-12)
    assert spread(one)[0] < spread(belief(3))[0]


# Signs.


@each_judge
@pytest.mark.parametrize("first_wins", [True, False])
def test_a_first_sign_leaves_the_moments_of_the_exact_posterior(
    accuracy, order_noise, bias, first_wins
):
    hard_bias = 0.4 * bias
    logit = first_slot_logit(hard_bias, "hard")
    one = belief(3, accuracy, order_noise, logit)
    one.take(Duel(2, 0), float(first_wins))

    x = np.linspace(-9, 9, 901)
    q2, q0 = np.meshgrid(x, x, indexing="ij")
    z = (q2 - q0) / one.sigma + hard_bias
    p_first = 0.5 * np.array([math.erfc(-v / math.sqrt(2)) for v in z.ravel()]).reshape(z.shape)
    weight = np.exp(-(q2**2 + q0**2) / 2) * (p_first if first_wins else 1 - p_first)
    weight /= weight.sum()

    def moments(values: np.ndarray) -> tuple[float, float]:
        mean = float((weight * values).sum())
        return mean, float((weight * (values - mean) ** 2).sum())

    assert one.mean == pytest.approx([moments(q0)[0], 0.0, moments(q2)[0]], abs=1e-6)
    # Number 1 is not in the duel, so it keeps its variance of 1.
    centred = [
        moments(q0 - (q0 + q2) / 3)[1] + 1 / 9,
        4 / 9 + moments((q0 + q2) / 3)[1],
        moments(q2 - (q0 + q2) / 3)[1] + 1 / 9,
    ]
    assert spread(one) ** 2 == pytest.approx(centred, abs=1e-6)


@each_judge
def test_signs_and_margins_mixed_are_moments_of_the_cut_margin(accuracy, order_noise, bias):
    duels, probabilities = sequence(4, 8, 3)
    one, joint = belief(4, accuracy, order_noise, bias), Joint(4, accuracy, order_noise, bias)
    for number, (duel, p) in enumerate(zip(duels, probabilities, strict=True)):
        if number % 3 == 1:
            one.take(duel, p)
            joint.state([duel], [p])
        else:
            one.take(duel, float(p > 0.3))
            joint.sign(duel, p > 0.3)
    # The reference sums over a grid whose step is 6e-5 sd.
    assert_same(one, joint, tolerance=1e-4)


def test_the_surer_a_stated_probability_the_more_it_says_up_to_one_in_a_million():
    means = []
    for p in (0.9, 0.999, 1 - 1e-5, 1 - 1e-9, 1 - 1e-12):
        one = belief(2)
        one.take(Duel(0, 1), p)
        means.append(float(one.mean[0]))
    assert means == sorted(means)
    assert means[2] < means[3] == means[4]


@pytest.mark.parametrize("order_noise", [0.0, 0.5])
@pytest.mark.parametrize("m", [3, 5, 8])
def test_a_sign_that_nobody_expected_still_leaves_a_distribution(m, order_noise):
    """Each is said to be much better than the next one, and then the last one to be better than
    the first.
    """
    one, joint = belief(m, 0.95, order_noise), Joint(m, 0.95, order_noise, 0.0)
    for better in range(m - 1):
        one.take(Duel(better, better + 1), 1 - 2e-6)
        joint.state([Duel(better, better + 1)], [1 - 2e-6])
    mean, variance = joint.margin(Duel(m - 1, 0))
    assert mean / math.sqrt(variance) < {3: -4, 5: -6, 8: -8}[m]
    before, expected = spread(one), one.mean.copy()
    one.take(Duel(m - 1, 0), 1.0)
    assert np.isfinite(one.mean).all()
    assert one.mean[0] < expected[0] and one.mean[m - 1] > expected[m - 1]
    assert (spread(one) > 0).all() and (spread(one) < before + 1e-9).all()
    for ahead in (one.best_after(), one.best_of_two()):
        assert np.isfinite(ahead).all() and ahead.max() < 10
    one.take(Duel(0, m - 1), 1.0)
    assert np.isfinite(one.mean).all() and np.isfinite(spread(one)).all()


# A pair's second order.


@pytest.mark.parametrize("order_noise", [0.0, 0.1, 0.5, 0.9])
@pytest.mark.parametrize("bias", [0.0, 1.1])
def test_a_second_order_narrows_less_than_a_fresh_pair(order_noise, bias):
    one = belief(4, order_noise=order_noise, bias=bias)
    whole = spread(one) ** 2
    one.take(Duel(0, 1), 0.8)
    first = spread(one) ** 2
    again, fresh = one.copy(), one.copy()
    again.take(Duel(1, 0), 0.2)
    fresh.take(Duel(2, 3), 0.8)
    by_again = (first - spread(again) ** 2)[:2].sum()
    by_fresh = (first - spread(fresh) ** 2)[2:].sum()
    assert (whole - first)[:2].sum() == pytest.approx(by_fresh)
    assert by_again < 0.9 * by_fresh
    # 1 / (1 / 2 + 1 / n) for the difference, n the noise that is left: one order, then the mean of
    # both.
    sigma2 = one.sigma**2
    after_one = 1 / (1 / 2 + 1 / sigma2)
    after_two = 1 / (1 / 2 + 1 / ((1 - order_noise / 2) * sigma2))
    assert by_again == pytest.approx((after_one - after_two) / 2, abs=1e-6)


@pytest.mark.parametrize("bias", [0.0, -0.7])
def test_without_order_noise_a_second_stated_margin_says_nothing(bias):
    one = belief(3, order_noise=0.0, bias=bias)
    margin = 0.9
    one.take(Duel(0, 1), 1 / (1 + math.exp(-(margin + bias))))
    mean, before = one.mean.copy(), spread(one)
    one.take(Duel(1, 0), 1 / (1 + math.exp(margin - bias)))
    assert one.mean == pytest.approx(mean, abs=1e-6)
    assert spread(one) == pytest.approx(before, abs=1e-6)
    # Though this judge cannot say it, the opposite is no catastrophe.
    other = belief(3, order_noise=0.0, bias=bias)
    other.take(Duel(0, 1), 0.7)
    other.take(Duel(1, 0), 0.7)
    assert np.abs(other.mean).max() < 1
    assert spread(other) == pytest.approx(before, abs=1e-6)


@pytest.mark.parametrize("p", [0.75, 1.0])
def test_with_order_noise_alone_a_second_order_is_an_independent_verdict(p):
    one = belief(2, order_noise=1.0)
    one.take(Duel(0, 1), p)
    mean, variance = float(one.mean[0] - one.mean[1]), variance_of_pair(one)
    one.take(Duel(1, 0), 1 - p)
    # The same verdict on the same difference by another judge of the same noise.
    noise = one.sigma**2
    margin_variance = variance + noise
    if p < 1:
        stated = one.sigma * math.log(p / (1 - p)) / 3
        step, narrowing = (stated - mean) / margin_variance, 1 / margin_variance
    else:
        z = mean / math.sqrt(margin_variance)
        ratio = math.exp(-z * z / 2) / math.sqrt(2 * math.pi) / PHI(z)
        step, narrowing = ratio / math.sqrt(margin_variance), ratio * (ratio + z) / margin_variance
    assert float(one.mean[0] - one.mean[1]) == pytest.approx(mean + variance * step, abs=1e-6)
    assert variance_of_pair(one) == pytest.approx(variance - variance**2 * narrowing, abs=1e-6)


@pytest.mark.parametrize("bias", [0.0, 0.5, -0.5])
def test_a_second_sign_says_the_less_the_more_both_orders_share(bias):
    moves = []
    for order_noise in (0.0, 0.3, 0.7, 1.0):
        one = belief(2, order_noise=order_noise, bias=bias)
        one.take(Duel(0, 1), 1.0)
        before = float(one.mean[0])
        one.take(Duel(1, 0), 0.0)
        moves.append(float(one.mean[0]) - before)
    assert 0 < moves[0] < moves[1] < moves[2] < moves[3]


# Symmetries.


@given(
    taken=st.lists(st.tuples(st.permutations(range(4)), verdicts), min_size=1, max_size=8),
    judge=st.sampled_from(JUDGES),
    new=st.permutations(range(4)),
)
@settings(max_examples=60)
def test_slots_and_names_do_not_matter(taken, judge, new):
    accuracy, order_noise, bias = judge
    one, swapped, renamed = (
        belief(4, accuracy, order_noise, bias),
        belief(4, accuracy, order_noise, -bias),
        belief(4, accuracy, order_noise, bias),
    )
    asked = set()
    for (i, j, *_), p in taken:
        if (i, j) in asked:
            continue
        asked.add((i, j))
        one.take(Duel(i, j), p)
        swapped.take(Duel(j, i), 1 - p)
        renamed.take(Duel(new[i], new[j]), p)
    new = list(new)
    for other, names in ((swapped, list(range(4))), (renamed, new)):
        assert other.mean[names] == pytest.approx(one.mean, abs=1e-6)
        for ours, theirs in zip(one.log_odds(), other.log_odds(), strict=True):
            assert theirs[names] == pytest.approx(ours, abs=1e-5)
        assert np.allclose(other.best_of_two()[np.ix_(names, names)], one.best_of_two(), atol=1e-6)
    off = ~np.eye(4, dtype=bool)
    assert np.allclose(swapped.best_after().T[off], one.best_after()[off], atol=1e-6)
    assert np.allclose(
        renamed.best_after()[np.ix_(new, new)][off], one.best_after()[off], atol=1e-6
    )


# Looking ahead.


@each_judge
@pytest.mark.parametrize("seed", [0, 1])
def test_best_after_is_what_both_signs_lead_to(accuracy, order_noise, bias, seed):
    one, joint = belief(4, accuracy, order_noise, bias), Joint(4, accuracy, order_noise, bias)
    shift = one.sigma * NormalDist().inv_cdf(1 / (1 + math.exp(-bias)))
    duels, probabilities = sequence(4, 5, seed)
    for duel, p in [(None, None), *zip(duels, probabilities, strict=True)]:
        if duel is not None:
            one.take(duel, p)
            joint.state([duel], [p])
        ahead = one.best_after()
        for pair in map(Duel._make, permutations(range(4), 2)):
            if pair in duels:
                # Asked a second time in the same order, its error would be drawn anew.
                continue
            mean, variance = joint.margin(pair)
            p_first = PHI((mean + shift) / math.sqrt(variance))
            won, lost = one.copy(), one.copy()
            won.take(pair, 1.0)
            lost.take(pair, 0.0)
            expected = p_first * won.mean.max() + (1 - p_first) * lost.mean.max()
            assert ahead[pair] == pytest.approx(expected, abs=1e-6), pair
    assert any(Duel(duel.second, duel.first) not in duels for duel in duels)


@each_judge
def test_best_after_is_right_after_signs_too(accuracy, order_noise, bias):
    one, joint = belief(3, accuracy, order_noise, bias), Joint(3, accuracy, order_noise, bias)
    shift = one.sigma * NormalDist().inv_cdf(1 / (1 + math.exp(-bias)))
    for duel, first_wins in ((Duel(1, 0), True), (Duel(0, 2), False)):
        one.take(duel, float(first_wins))
        joint.sign(duel, first_wins)
    for pair in (Duel(0, 1), Duel(2, 0), Duel(1, 2), Duel(2, 1)):
        mean, variance = joint.margin(pair)
        p_first = PHI((mean + shift) / math.sqrt(variance))
        won, lost = one.copy(), one.copy()
        won.take(pair, 1.0)
        lost.take(pair, 0.0)
        expected = p_first * won.mean.max() + (1 - p_first) * lost.mean.max()
        assert one.best_after()[pair] == pytest.approx(expected, abs=1e-4), pair


@each_judge
@pytest.mark.parametrize("seed", [0, 1])
def test_best_of_two_is_the_mean_over_the_margins_that_may_be_stated(
    accuracy, order_noise, bias, seed
):
    one, joint = belief(4, accuracy, order_noise, bias), Joint(4, accuracy, order_noise, bias)
    duels, probabilities = sequence(4, 5, seed)
    grid, step = np.linspace(-8, 8, 16_001, retstep=True)
    density = step * np.exp(-grid * grid / 2) / math.sqrt(2 * math.pi)
    for taken in (0, len(duels)):
        for duel, p in list(zip(duels, probabilities, strict=True))[:taken]:
            one.take(duel, p)
            joint.state([duel], [p])
        ahead = one.best_of_two()
        assert np.allclose(ahead, ahead.T, atol=1e-12)
        for pair in map(Duel._make, permutations(range(4), 2)):
            if pair in duels[:taken]:
                continue
            mean, variance = joint.margin(pair)
            after = []
            for z in (-1, 1):
                # Means are linear in the margin: two verdicts say what all others would do.
                told = one.copy()
                told.take(
                    pair,
                    1 / (1 + math.exp(-(3 * (mean + z * math.sqrt(variance)) / one.sigma + bias))),
                )
                after.append(told.mean.copy())
            i, j = pair
            lines = [
                (after[0][k] + after[1][k]) / 2 + (after[1][k] - after[0][k]) / 2 * grid
                for k in (i, j)
            ]
            expected = float((np.maximum(*lines) * density).sum())
            assert ahead[pair] == pytest.approx(expected, abs=1e-6), pair


def test_a_second_order_is_worth_less_than_a_fresh_pair():
    one = belief(4, order_noise=0.3)
    one.take(Duel(0, 1), 0.5)
    assert one.best_of_two()[1, 0] < one.best_of_two()[2, 3] - 0.1
    nothing_new = belief(4, order_noise=0.0)
    nothing_new.take(Duel(0, 1), 0.5)
    assert nothing_new.best_of_two()[1, 0] == pytest.approx(float(nothing_new.mean.max()), abs=1e-4)


@given(verdict=st.floats(0.001, 0.999), judge=st.sampled_from(JUDGES), seed=st.integers(0, 20))
@settings(max_examples=40)
def test_supposing_narrows_as_a_stated_margin_does_and_moves_nobody(verdict, judge, seed):
    told, supposed = belief(4, *judge), belief(4, *judge)
    duels, probabilities = sequence(4, 4, seed)
    for duel, p in list(zip(duels, probabilities, strict=True))[:-1]:
        told.take(duel, p)
        supposed.take(duel, p)
    before = supposed.mean.copy()
    told.take(duels[-1], verdict)
    supposed.suppose(duels[-1])
    assert supposed.mean.tolist() == before.tolist()
    assert supposed.log_odds()[1] == pytest.approx(told.log_odds()[1], abs=1e-12)
    assert (supposed.log_odds()[1] > 0).all()


def test_a_copy_goes_its_own_way():
    one = belief(3)
    one.take(Duel(0, 1), 1.0)
    other, mean, errors = one.copy(), one.mean.copy(), spread(one)
    other.take(Duel(1, 2), 1.0)
    other.suppose(Duel(2, 1))
    other.take(Duel(1, 0), 0.3)
    assert one.mean.tolist() == mean.tolist()
    assert spread(one).tolist() == errors.tolist()
    late = one.copy()
    one.take(Duel(2, 1), 0.0)
    assert late.mean.tolist() == mean.tolist()
    one.take(Duel(0, 2), 0.6)
    late.take(Duel(2, 1), 0.0)
    late.take(Duel(0, 2), 0.6)
    assert late.mean.tolist() == one.mean.tolist()


# What is reported.


@given(
    taken=st.lists(st.tuples(st.permutations(range(5)), verdicts), max_size=12),
    judge=st.sampled_from(JUDGES),
)
@settings(max_examples=40)
def test_log_odds_are_centred_differences_of_the_means(taken, judge):
    one = belief(5, *judge)
    for i, j in dict.fromkeys((i, j) for (i, j, *_), _ in taken):
        one.take(Duel(i, j), next(p for (a, b, *_), p in taken if (a, b) == (i, j)))
    scores, errors = one.log_odds()
    assert scores.sum() == pytest.approx(0, abs=1e-9)
    assert np.diff(scores) == pytest.approx(np.diff(one.mean) * 1.702 / one.sigma, abs=1e-9)
    assert (errors > 0).all() and np.isfinite(errors).all()


@pytest.mark.parametrize("accuracy", [0.6, 0.75, 0.9])
@pytest.mark.parametrize("gap_in_sigma", [0.25, 0.5, 1.0, 2.0, 3.0])
def test_of_a_pair_that_is_well_known_the_scores_give_the_judges_probability(
    accuracy, gap_in_sigma
):
    """Two hundred independent verdicts tell the gap d; the judge then prefers the better one
    with Phi(d / sigma).
    """
    one = Belief(2, 1, accuracy=accuracy, order_noise=1.0, first_slot_bias=0.0)
    p = 1 / (1 + math.exp(-3 * gap_in_sigma))
    for _ in range(100):
        one.take(Duel(0, 1), p)
        one.take(Duel(1, 0), 1 - p)
    scores, errors = one.log_odds()
    preferred = 1 / (1 + math.exp(scores[1] - scores[0]))
    # The prior pulls the gap towards 0 by sigma^2 / 200 against its own variance of 2.
    known = gap_in_sigma / (1 + one.sigma**2 / 400)
    assert (scores[0] - scores[1]) / 1.702 == pytest.approx(known, abs=1e-6)
    # The two distribution functions differ by less than .0095 at this scale.
    assert abs(preferred - PHI(known)) < 0.0095 + 1e-6
    # The difference of the scores has twice the error of each: centred, they are its halves.
    assert 2 * errors[0] == pytest.approx(1.702 / math.sqrt(one.sigma**2 / 2 + 200), abs=1e-6)
