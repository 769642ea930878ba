"""A loss from outside is as good as ours: one function in a file of one's own, named in a
configuration.
"""

import sys
import textwrap
from pathlib import Path

import pytest
import torch
from pair_values import gradient, logps

from prefine.config.components import TABLES, bind, lookup
from prefine.errors import ConfigError
from prefine.losses.facts import bare, kind_of, needs_of, options_of, parts_of, per_pair, reads_of
from prefine.losses.pairs.dpo import dpo
from prefine.losses.regularizers.budget import budget
from prefine.training.objective.objective import Objective

LONGEST = 70
"""Lines of a file with a loss, docstrings included."""

OWN = '''
    """Losses of somebody else."""

    from typing import Annotated, Literal

    from pydantic import Field
    from torch.nn.functional import logsigmoid

    from prefine.losses.protocol import Loss, declare


    def tilted(
        logps,
        *,
        beta: Annotated[float, Field(gt=0)] = 0.1,
        side: Literal["left", "right"] = "left",
    ):
        sign = 1 if side == "left" else -1
        return -logsigmoid(sign * beta * logps.margin)


    @declare(needs=frozenset({"reference"}))
    def declared(logps, *, beta: Annotated[float, Field(gt=0)] = 0.1):
        return -logsigmoid(beta * logps.margin)


    @declare(needs=frozenset({"p_chosen"}), check=lambda *, power: None)
    def weighted(logps, *, loss: Loss, power: float = 1.0):
        return logps.p_chosen**power * loss(logps)
'''


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a module outside of the library."""
    (tmp_path / "my_own_losses.py").write_text(textwrap.dedent(OWN), encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "my_own_losses", raising=False)
    return "my_own_losses"


def test_a_loss_from_outside_is_bound_checked_and_minimised(own: str) -> None:
    function = bind("loss", f"{own}:tilted", {"beta": 0.3}, where="train.loss")
    assert options_of(function) == {"beta": 0.3, "side": "left"}
    values = logps()
    torch.testing.assert_close(function(values), dpo(values, beta=0.3))
    objective = Objective(function, bind("regularizer", "budget", {"delta": 0.5}, where=""), 0.7)
    total = objective.value(*objective.terms(values))
    torch.testing.assert_close(total, dpo(values, beta=0.3) + 0.7 * budget(values, delta=0.5))
    found = gradient(lambda logps: objective.value(*objective.terms(logps)), values)
    expected = gradient(lambda logps: dpo(logps, beta=0.3) + 0.7 * budget(logps, delta=0.5), values)
    for side, wanted in zip(found, expected, strict=True):
        torch.testing.assert_close(side, wanted)
    for options, says in (
        ({"beta": 0}, "train.loss.beta: Input should be greater than 0"),
        ({"side": "up"}, "train.loss.side: Input should be 'left' or 'right'"),
        ({"bta": 1}, "train.loss.bta: unknown option"),
    ):
        with pytest.raises(ConfigError, match=says):
            bind("loss", f"{own}:tilted", options, where="train.loss")


def test_what_it_does_not_declare_is_taken_carefully(own: str) -> None:
    tilted = bind("loss", f"{own}:tilted", {}, where="")
    assert kind_of(tilted) == "coupled" and Objective(tilted).kind == "coupled"
    assert {"reference", "initial"} <= needs_of(tilted)
    assert reads_of(tilted) == "pairs" and per_pair(tilted)
    declared = bind("loss", f"{own}:declared", {}, where="")
    assert kind_of(declared) == "local" and Objective(declared).kind == "local"
    assert needs_of(declared) == {"reference"}
    assert Objective(declared, tilted).kind == "coupled"


def test_it_composes_with_ours_both_ways(own: str) -> None:
    values = logps()
    part = {"name": f"{own}:declared", "beta": 0.3}
    ours = bind(
        "loss", "mixture", {"losses": [part, {"name": "bco"}], "weights": [2.0, 0.0]}, where=""
    )
    torch.testing.assert_close(ours(values), 2 * dpo(values, beta=0.3))
    assert kind_of(ours) == "coupled" and needs_of(ours) == {"reference"}
    assert [path for path, _ in parts_of(ours)] == ["", "losses.0", "losses.1"]
    theirs = bind("loss", f"{own}:weighted", {"loss": {"name": "kto_pair"}, "power": 2.0}, where="")
    assert kind_of(theirs) == "coupled" and needs_of(theirs) == {
        "p_chosen",
        "reference",
        "mismatched",
    }
    inner = bind("loss", "kto_pair", {}, where="")
    torch.testing.assert_close(theirs(values), values.p_chosen**2 * inner(values))
    assert [bare(function).__name__ for _, function in parts_of(theirs)] == ["weighted", "kto_pair"]
    sorting = bind("loss", f"{own}:weighted", {"loss": {"name": "aot"}}, where="")
    assert not per_pair(sorting)


def test_a_loss_is_one_short_file_and_one_line_of_the_table() -> None:
    targets = {**TABLES["loss"], **TABLES["regularizer"]}
    for name, target in targets.items():
        module, _, function = target.partition(":")
        assert function == name and module.rpartition(".")[2] == name
        kind = "loss" if name in TABLES["loss"] else "regularizer"
        path = Path(lookup(kind, name, where="").__code__.co_filename)
        lines = len(path.read_text(encoding="utf-8").splitlines())
        assert lines <= LONGEST, f"{path.name} has {lines} lines"
    assert len(set(targets.values())) == len(targets)
