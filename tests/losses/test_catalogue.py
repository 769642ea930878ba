"""The catalogue: docs are fresh, every card is complete, gradients match finite differences."""

import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
import torch
import yaml
from pydantic import Field

import make_losses
from prefine.config.components import TABLES, bind
from prefine.config.training import TrainConfig
from prefine.errors import ConfigError
from prefine.losses.cards.catalogue import (
    ROLES,
    allowed,
    amount,
    arrow,
    as_yaml,
    card,
    cards,
    function_of,
)
from prefine.losses.cards.docstrings import parse
from prefine.losses.cards.logp_gradients import (
    CHOSEN,
    REFERENCE,
    REJECTED,
    LogpGradients,
    along,
    inputs_at,
    logp_gradients,
    pair_at,
)
from prefine.losses.facts import bare, options_of, reads_of
from prefine.losses.pairs.dpo import dpo
from prefine.losses.pairs.wpo import pair_weight
from prefine.losses.protocol import Loss, LossFunction, PairLogps

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "losses.md").read_text(encoding="utf-8")
NAMES = sorted({name for role in ROLES for name in TABLES[role]})
STALE = "is stale: run `make docs`"


@pytest.fixture(scope="module")
def pages() -> dict[str, str]:
    return make_losses.pages()


def test_the_page_and_its_pictures_are_what_the_code_says(pages: dict[str, str]) -> None:
    for path, text in pages.items():
        assert (DOCS / path).is_file(), f"docs/{path} is missing: run `make docs`"
        assert (DOCS / path).read_bytes() == text.encode(), f"docs/{path} {STALE}"
    assert {f"losses/{path.name}" for path in (DOCS / "losses").iterdir()} == set(pages) - {
        "losses.md"
    }


def test_links_within_the_page_lead_somewhere(pages: dict[str, str]) -> None:
    headings = re.findall(
        r"^#+ (.*)$", re.sub(r"```.*?```", "", PAGE, flags=re.DOTALL), flags=re.MULTILINE
    )
    anchors = [heading.lower().replace(" ", "-") for heading in headings]
    assert len(anchors) == len(set(anchors)), "two headings have the same anchor"
    assert set(re.findall(r"\]\(#([\w-]+)\)", PAGE)) <= set(anchors)
    assert set(re.findall(r"\]\((losses/.*?)\)", PAGE)) == set(pages) - {"losses.md"}


def test_all_are_there_once() -> None:
    shown = [one.name for one in cards()]
    assert sorted(shown) == NAMES
    assert shown.index("nll") > shown.index("mixture"), "what is both stands with the regularizers"


@pytest.mark.parametrize("name", NAMES)
def test_a_card_is_complete(name: str) -> None:
    one = card(name)
    assert one.family != "other"
    assert one.title
    assert re.search(r"[()*]|-lw", one.formula), (
        "the first line of the docstring begins with the formula"
    )
    assert one.links and one.returns
    for option in one.options:
        assert option.meaning, option.name
        assert option.required or option.origin in ("paper", "field", "ours"), (
            f"{option.name} has no Default: tag"
        )
    assert set(parse(function_of(name).__doc__).arguments) - {"logps"} == {
        option.name for option in one.options
    }
    assert one.open == (name == "mixture")
    assert (one.pushes is None) == one.open


# --- pushes

WEIGHTED = ("wpo", "beta_dpo")
"""Their weights have no gradient but would change under finite differences."""


def _difference(function: LossFunction, side: int) -> float:
    controller = getattr(bare(function), "controller", None)
    point = [torch.tensor([REFERENCE + value], dtype=torch.float64) for value in (CHOSEN, REJECTED)]
    given = controller().update(pair_at(*point), options_of(function)) if controller else {}
    reads = reads_of(function)
    step, values = 1e-5, []
    for sign in (1, -1):
        moved = list(point)
        moved[side] = point[side] + sign * step
        values.append(float(function(inputs_at(reads, *moved), **given).sum()))
    return (values[0] - values[1]) / (2 * step)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("mixture", *WEIGHTED)])
def test_pushes_are_finite_differences(name: str) -> None:
    found = card(name).pushes
    assert found is not None
    # Central differences of values up to 1e6 lose 1e6 * 2^-52 / 1e-5 = 2e-5 to rounding, of the
    # others 1e-9.
    room = 1e-4 if abs(found.chosen) > 100 else 1e-8
    assert -found.chosen == pytest.approx(_difference(function_of(name), 0), rel=1e-6, abs=room)
    assert -found.rejected == pytest.approx(_difference(function_of(name), 1), rel=1e-6, abs=room)


def test_pushes_of_what_weights_dpo() -> None:
    plain = logp_gradients(dpo)
    assert plain.chosen == pytest.approx(0.1 / (1 + math.exp(0.1 * (CHOSEN - REJECTED))), rel=1e-12)
    assert logp_gradients(function_of("beta_dpo")) == plain
    weight = float(
        pair_weight(
            pair_at(*(torch.tensor([REFERENCE + x], dtype=torch.float64) for x in (-3, -7)))
        )
    )
    assert logp_gradients(function_of("wpo")).chosen == pytest.approx(
        weight * plain.chosen, rel=1e-12
    )


def test_ratios_are_those_of_the_formulas() -> None:
    share = 1 / (1 + math.exp(0.1 * (CHOSEN - REJECTED)))
    expected = {
        **dict.fromkeys(("dpo", "soft_dpo", "robust", "hinge", "exo", "aot", "bco"), 1),
        **{
            "dpop": 51,
            "dpo_shift": 1 / 0.95,
            "simpo": 60 / 40,
            "nll": math.inf,
            "slic": math.inf,
            "budget": None,
        },
        "rpo": 1 + 1 / (40 * 0.1 * share),
        "bdpo": (0.5 * math.exp(REJECTED) + 0.5) / (0.5 * math.exp(REJECTED)),
    }
    for name, ratio in expected.items():
        found = card(name).pushes
        assert found is not None
        assert found.ratio == (ratio if ratio is None else pytest.approx(ratio, rel=1e-9)), name
    falling = card("apo_down").pushes
    assert falling is not None and falling.chosen < 0
    assert falling.ratio is not None and falling.ratio < 0


def test_the_curve_passes_through_the_point_of_the_table() -> None:
    assert along(dpo, CHOSEN - REJECTED) == logp_gradients(dpo)


def test_the_tokens_of_the_pair_make_up_its_sums() -> None:
    pair = pair_at(*(torch.tensor([value], dtype=torch.float64) for value in (-63.0, -67.0)))
    tokens = pair.require_tokens()
    for side in ("policy_chosen", "policy_rejected", "ref_chosen", "ref_rejected"):
        assert getattr(tokens, side).sum(dim=1) == pytest.approx(getattr(pair, side))
    assert tokens.policy_chosen.shape == (1, pair.chosen_tokens)
    assert tokens.policy_rejected.shape == (1, pair.rejected_tokens)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (math.inf, "∞"),
        (0.040131, "0.0401"),
        (51.00000000000001, "51"),
        (0.1, "0.1"),
        (1096.63, "1,100"),
        (-0.00172, "−0.00172"),
        (5.0e-5, "5.00e−5"),
        (1.125, "1.13"),
        (math.nextafter(1.125, 0), "1.13"),
        (999.6, "1,000"),
    ],
)
def test_amounts_have_three_digits_whatever_the_last_bit(value: float, text: str) -> None:
    assert amount(value) == text


def test_arrows() -> None:
    assert [arrow(x) for x in (0.5, -0.5, 0.0)] == ["↑\u00a00.5", "↓\u00a00.5", "0"]


# --- docstrings and annotations


def test_a_docstring_falls_into_its_parts() -> None:
    found = parse(
        """f(a, b) - [c, d], a the first, b = 2.

        More of it.
        And more.

        Args:
            logps: What is read.
            beta: A number
                that goes on: here. Default: paper.
            free: No default.
        Returns: Loss [B],
            nats.
        Source: arXiv:1234.56789, eq. 1.
        """
    )
    assert (found.formula, found.where) == ("f(a, b) - [c, d]", "a the first, b = 2")
    assert found.details == "More of it. And more."
    assert found.arguments == {
        "logps": "What is read.",
        "beta": "A number that goes on: here.",
        "free": "No default.",
    }
    assert found.origins == {"beta": "paper"}
    assert (found.returns, found.source) == ("Loss [B], nats.", "arXiv:1234.56789, eq. 1.")
    assert parse(None).formula == parse("").formula == ""
    broken = parse("f(a), a the first.\n\nArgs:\n    no meaning\n")
    assert (broken.formula, broken.where, broken.arguments) == ("f(a)", "a the first", {})


@pytest.mark.parametrize(
    ("hint", "text"),
    [
        (float, ""),
        (Annotated[float, Field(gt=0)], "> 0"),
        (Annotated[float, Field(ge=0, lt=0.5)], "≥ 0, < 0.5"),
        (Annotated[float, Field(gt=0, le=1)], "> 0, ≤ 1"),
        (Annotated[float, Field(allow_inf_nan=False)], ""),
        (Annotated[int, Field(ge=0)], "whole number, ≥ 0"),
        (int, "whole number"),
        (bool, "bool"),
        (Literal["a", "b", "c"], "a, b or c"),
        (Literal["a"], "a"),
        (Loss, "a loss"),
        (Annotated[tuple[Loss, ...], Field(min_length=1)], "at least 1, each a loss"),
        (tuple[Annotated[float, Field(ge=0)], ...], "each ≥ 0"),
    ],
)
def test_bounds_in_words(hint: Any, text: str) -> None:
    assert allowed(hint) == text


def test_defaults_as_a_configuration_states_them() -> None:
    assert as_yaml({"name": "dpo", "x": [1.0, True, None]}) == "{name: dpo, x: [1, true, null]}"
    for one in cards():
        free = {
            option.name: yaml.safe_load(as_yaml(option.default))
            for option in one.options
            if not option.moved
        }
        if not one.open:
            bound = options_of(bind(one.roles[0], one.name, free, where="w"))
            assert {
                name: as_yaml(yaml.safe_load(as_yaml(value)))
                for name, value in bound.items()
                if name in free
            }


# --- what the page shows works


@pytest.mark.parametrize("block", re.findall(r"```yaml\n(.*?)```", PAGE, flags=re.DOTALL))
def test_the_configurations_of_the_page_load(block: str) -> None:
    train = TrainConfig.model_validate(yaml.safe_load(block)["train"])
    train.loss.resolve("loss", where="train.loss")
    if train.regularizer is not None:
        train.regularizer.resolve("regularizer", where="train.regularizer")


def test_the_loss_of_the_page_has_a_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (code,) = re.findall(r"```python\n(# my_module\.py.*?)```", PAGE, flags=re.DOTALL)
    (tmp_path / "page_loss.py").write_text(code, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    one = card("page_loss:my_loss")
    assert (one.roles, one.kind, one.needs) == ((), "local", ("reference",))
    assert one.formula == "-log sigmoid(beta * D) + keep * max(0, -a)"
    plain = logp_gradients(dpo)
    assert one.pushes == LogpGradients(
        pytest.approx(plain.chosen + 0.2), pytest.approx(plain.rejected)
    )
    assert bind("loss", "page_loss:my_loss", {"keep": 0.5}, where="w")


HERE = __name__


def undeclared(logps, *, scale: float = 2.0):
    return scale * (logps.policy_chosen - logps.policy_rejected)


def broken(logps: PairLogps) -> torch.Tensor:
    raise RuntimeError("not today")


def needing(logps: PairLogps, *, how_much: float) -> torch.Tensor:
    return how_much * replace(logps).policy_chosen


class Klass:
    pass


def test_cards_of_own_functions() -> None:
    one = card(f"{HERE}:undeclared")
    assert (one.family, one.kind, one.formula, one.source) == ("other", "coupled", "", "")
    assert one.pushes == LogpGradients(-2.0, 2.0)
    assert "not today" in card(f"{HERE}:broken").unknown
    assert card(f"{HERE}:needing").unknown == "depends on how_much, without default"


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("DPO", "unknown loss or regularizer 'DPO'; did you mean 'dpo'?"),
        ("no_such_module:f", "cannot import 'no_such_module'"),
        (f"{HERE}:nothing", "has no 'nothing'"),
        (f"{HERE}:Klass", "a loss is a function of PairLogps"),
        (f"{HERE}:HERE", "a loss is a function of PairLogps"),
    ],
)
def test_what_has_no_card_is_an_error(name: str, says: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(says)):
        card(name)
