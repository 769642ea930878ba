"""What a loss reads and the pairs do not state is said before training begins."""

from dataclasses import replace

import pytest
import tiny_training as tiny

from prefine.errors import ConfigError, DataError
from prefine.losses import aot, dpo, kto_pair, odpo, sppo
from prefine.losses.protocol import LossFunction, declare
from prefine.training.relations.pair_checks import check_pairs
from prefine.training.relations.pairs import TokenizedPair

EXAMPLES = tiny.examples()


def check_examples(functions: list[LossFunction], examples: list[TokenizedPair]) -> tuple[str, ...]:
    named = [(f"the loss {function.__name__!r}", function) for function in functions]
    return check_pairs(named, examples)


def test_a_need_that_there_is_not_is_refused_where_it_is_declared() -> None:
    with pytest.raises(ValueError, match="needs: hessian is none of reference, "):
        declare(needs=frozenset({"reference", "hessian"}))  # type: ignore[arg-type]


def test_a_pair_without_a_score_gap_is_named() -> None:
    check_examples([odpo], EXAMPLES)
    rows = [*EXAMPLES[:3], replace(EXAMPLES[3], score_gap=None), *EXAMPLES[4:]]
    check_examples([dpo], rows)
    with pytest.raises(
        DataError, match=r"pair pair-3: states no score_gap, which the loss 'odpo' reads"
    ):
        check_examples([dpo, odpo], rows)


def test_sorted_pairs_cannot_be_weighted() -> None:
    check_examples([aot], [replace(example, weight=2.0) for example in EXAMPLES])
    check_examples([dpo], EXAMPLES)
    with pytest.raises(
        ConfigError, match=r"pair pair-1: has weight .*, one before it .* sorts the pairs of a step"
    ):
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
    with pytest.raises(
        DataError, match="all pairs have the same prompt, and the loss 'kto_pair' reads"
    ):
        check_examples([kto_pair], rows)
    assert check_examples([kto_pair], []) == ()
