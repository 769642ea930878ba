"""What training cannot give a loss is said before it begins."""

from dataclasses import replace
from typing import Any

import pytest
import tiny_training as tiny

from prefine.errors import ConfigError, DataError
from prefine.losses import aot, dpo, kto_pair, odpo, sppo
from prefine.losses.base import declare
from prefine.registry import bind
from prefine.training.demands import check_examples, check_needs

EXAMPLES = tiny.examples()


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("ld_dpo", {}, "the log-probability of every token (tokens)"),
        ("bmc", {}, "the log-probability of every token (tokens)"),
        ("wpo", {}, "statistics over the vocabulary at every token (vocabulary)"),
    ],
)
def test_a_need_that_is_not_provided_is_named(name: str, options: dict[str, Any], says: str) -> None:
    function = bind("loss", name, options, where="train.loss")
    with pytest.raises(ConfigError) as caught:
        check_needs(function, where="train.loss", name=name)
    assert str(caught.value).startswith(f"train.loss.name: {name!r} needs ")
    assert says in str(caught.value)


@pytest.mark.parametrize("function", [dpo, odpo, kto_pair, aot])
def test_what_is_provided_passes(function: Any) -> None:
    check_needs(function, where="train.loss", name="loss")


def test_prompts_are_not_scored_yet() -> None:
    @declare(needs=frozenset({"prompt"}))
    def joint(logps: object) -> None: ...

    with pytest.raises(ConfigError, match=r"log-probabilities of the prompts \(prompt\)"):
        check_needs(joint, where="train.loss", name="own:joint")


def test_the_part_of_a_mixture_that_needs_more_is_named() -> None:
    options = {"losses": [{"name": "dpo"}, {"name": "ld_dpo"}], "weights": [1, 1]}
    with pytest.raises(ConfigError, match="'mixture' with ld_dpo in it needs the log-probability of every token"):
        check_needs(bind("loss", "mixture", options, where="train.loss"), where="train.loss", name="mixture")


def test_a_pair_without_a_score_gap_is_named() -> None:
    check_examples([odpo], EXAMPLES)
    rows = [*EXAMPLES[:3], replace(EXAMPLES[3], score_gap=None), *EXAMPLES[4:]]
    check_examples([dpo], rows)
    with pytest.raises(DataError, match=r"pair pair-3: states no score_gap, which the loss 'odpo' reads"):
        check_examples([dpo, odpo], rows)


def test_sorted_pairs_cannot_be_weighted() -> None:
    check_examples([aot], [replace(example, weight=2.0) for example in EXAMPLES])
    check_examples([dpo], EXAMPLES)
    with pytest.raises(ConfigError, match=r"pair pair-1: has weight .*, one before it .* sorts the pairs of a step"):
        check_examples([aot], EXAMPLES)


def test_soft_labels_need_a_stated_probability() -> None:
    assert check_examples([sppo], EXAMPLES) == ()
    without = [replace(example, p_chosen=None) for example in EXAMPLES]
    assert check_examples([dpo], without) == ()
    with pytest.raises(DataError, match="no pair states p_chosen, which the loss 'sppo' reads"):
        check_examples([sppo], without)
    (note,) = check_examples([sppo], [*without[:2], *EXAMPLES[2:]])
    assert note == "2 of 7 pairs state no p_chosen and count as certain in the loss 'sppo'"


def test_answers_to_other_prompts_need_other_prompts() -> None:
    rows = [replace(example, prompt_ids=(1,)) for example in EXAMPLES]
    check_examples([dpo], rows)
    with pytest.raises(DataError, match="all pairs have the same prompt, and the loss 'kto_pair' reads"):
        check_examples([kto_pair], rows)
    assert check_examples([kto_pair], []) == ()
