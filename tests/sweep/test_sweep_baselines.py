"""Which setting of a sweep each one is compared with."""

from typing import Any

import pytest

from prefine.config.sweep import read_sweep
from prefine.errors import ConfigError


def baselines(section: dict[str, Any]) -> tuple[int, ...]:
    return read_sweep({"sweep": section}, where="run.yaml").baselines


GRID = {"pair.only_sources": [["a"], ["b"]], "pair.fraction": [0.5, 1.0]}
BETA, EPOCHS = "train.loss.beta", "train.epochs"


@pytest.mark.parametrize(
    ("section", "expected"),
    [
        # A grid's settings in order: (a, .5), (a, 1), (b, .5), (b, 1).
        ({"grid": GRID}, (0, 0, 0, 0)),
        ({"grid": GRID, "baseline": {"pair.fraction": 1.0}}, (1, 1, 3, 3)),
        ({"grid": GRID, "baseline": {"pair.only_sources": ["b"]}}, (2, 3, 2, 3)),
        (
            {"grid": GRID, "baseline": {"pair.only_sources": ["b"], "pair.fraction": 0.5}},
            (2, 2, 2, 2),
        ),
        # One setting alone fits: all are compared with it, whatever their other paths.
        ({"grid": GRID, "list": [{BETA: 0.1}], "baseline": {BETA: 0.1}}, (4, 4, 4, 4, 4)),
        (
            {
                "list": [{BETA: 0.1}, {BETA: 0.1, EPOCHS: 3}, {BETA: 0.4}, {BETA: 0.4, EPOCHS: 3}],
                "baseline": {BETA: 0.1},
            },
            (0, 1, 0, 1),
        ),
    ],
)
def test_each_setting_has_the_baseline_of_its_block(
    section: dict[str, Any], expected: tuple[int, ...]
) -> None:
    assert baselines(section) == expected


def test_a_setting_that_no_fitting_one_agrees_with_is_refused() -> None:
    settings = [{BETA: 0.1, EPOCHS: 1}, {BETA: 0.1, EPOCHS: 3}, {BETA: 0.4, EPOCHS: 2}]
    with pytest.raises(ConfigError) as refused:
        baselines({"list": settings, "baseline": {BETA: 0.1}})
    for words in (
        "run.yaml: sweep",
        '{"train.loss.beta": 0.1} fits several settings, and none of them agrees with '
        '{"train.loss.beta": 0.4, "train.epochs": 2} in the other paths',
        '{"train.loss.beta": 0.1, "train.epochs": 1}, {"train.loss.beta": 0.1, "train.epochs": 3}',
        "name more values in the baseline",
    ):
        assert words in str(refused.value)


def test_two_fitting_settings_that_agree_are_refused() -> None:
    """1 and 1.0 are written differently and mean the same."""
    settings = [{BETA: 1, EPOCHS: 1}, {BETA: 1.0, EPOCHS: 1}, {BETA: 2.0, EPOCHS: 1}]
    with pytest.raises(ConfigError, match="more than one of them agrees"):
        baselines({"list": settings, "baseline": {BETA: 1}})


def test_a_baseline_that_every_setting_fits_is_refused() -> None:
    section = {"grid": {BETA: [0.1], EPOCHS: [1, 3]}, "baseline": {BETA: 0.1}}
    with pytest.raises(ConfigError, match=r"fits every setting.*1\}, \{.*3\}; name more values"):
        baselines(section)
