"""The AUC of rewards against all comparisons, and its error against the bootstrap."""

import numpy as np
import pytest

from prefine.metrics import reward_auc


def drawn(seed: int = 0, prompts: int = 60, per_prompt: int = 3):
    """Rewards that share something within a prompt, and labels that follow them."""
    rng = np.random.default_rng(seed)
    ids = np.repeat(np.arange(prompts), per_prompt)
    rewards = rng.normal(size=prompts)[ids] + rng.normal(size=len(ids))
    return rewards, rewards + rng.normal(0, 2, len(ids)) > 0.3, ids


def test_it_is_the_share_of_comparisons_and_equal_ones_count_half() -> None:
    rewards, good = [3.0, 1.0, 1.0, 0.0], [True, True, False, False]
    found = reward_auc(rewards, good)
    # 3 beats both, 1 ties with 1 and beats 0.
    assert (found.value, found.n, found.unit) == (100 * 3.5 / 4, 4, "%")
    rewards, good, ids = drawn()
    wins = np.sign(rewards[good][:, None] - rewards[~good]) / 2 + 0.5
    assert reward_auc(rewards, good, ids).value == pytest.approx(100 * wins.mean(), rel=1e-12)
    assert reward_auc(-rewards, good).value == pytest.approx(100 - 100 * wins.mean(), rel=1e-12)


def test_its_error_is_that_of_drawing_other_prompts() -> None:
    rewards, good, ids = drawn()
    found = reward_auc(rewards, good, ids)
    rng, values = np.random.default_rng(1), []
    rows = [np.flatnonzero(ids == one) for one in np.unique(ids)]
    for _ in range(2000):
        some = np.concatenate([rows[one] for one in rng.integers(0, len(rows), len(rows))])
        values.append(reward_auc(rewards[some], good[some]).value)
    assert found.standard_error == pytest.approx(np.std(values), rel=0.06)
    assert found.interval == pytest.approx(np.quantile(values, [0.025, 0.975]), abs=1.0)
    # With every answer on its own, it is DeLong's variance.
    wins = np.sign(rewards[good][:, None] - rewards[~good]) / 2 + 0.5
    sides = [wins.mean(axis) for axis in (0, 1)]
    variance = sum(side.var(ddof=1) / len(side) for side in sides)
    assert reward_auc(rewards, good).standard_error == pytest.approx(100 * variance**0.5)


def test_without_spread_there_is_no_uncertainty() -> None:
    perfect = reward_auc([2.0, 1.5, 1.0, 0.5], [1, 1, 0, 0])
    assert (perfect.value, perfect.standard_error, perfect.interval) == (100, 0, None)
    one_prompt = reward_auc([2.0, 0.0], [True, False], ["a", "a"])
    assert (one_prompt.standard_error, one_prompt.interval) == (None, None)


@pytest.mark.parametrize(
    ("rewards", "good", "says"),
    [
        ([1.0, 2.0], [True, True], "all labels are alike"),
        ([1.0, 2.0], [0, 2], "a label must be True or False"),
        ([1.0, np.nan], [True, False], "rewards"),
        ([1.0, 2.0, 3.0], [True, False], "desirable"),
    ],
)
def test_what_has_no_auc_is_refused(rewards, good, says) -> None:
    with pytest.raises(ValueError, match=says):
        reward_auc(rewards, good)
