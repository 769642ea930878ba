"""Reference values: computed once, reused exactly while weights, dtype and token ids are the same."""

from dataclasses import replace
from pathlib import Path

import pytest
import tiny_training as tiny
import torch

from prefine.errors import Interrupted, NumericsError
from prefine.training.forward import Forward
from prefine.training.reference import cached_sides, check_start, score_sides, weights_fingerprint

EXAMPLES = tiny.examples()


def test_values_come_back_in_the_order_of_the_examples() -> None:
    together = score_sides(Forward(tiny.model()), EXAMPLES)
    for index, example in enumerate(EXAMPLES):
        alone = score_sides(Forward(tiny.model()), [example])
        assert float(together.chosen[index]) == pytest.approx(float(alone.chosen[0]), rel=1e-12)
        assert float(together.rejected[index]) == pytest.approx(float(alone.rejected[0]), rel=1e-12)
    assert not together.chosen.requires_grad


def test_the_same_question_is_read_from_the_file(tmp_path: Path) -> None:
    first, reused = cached_sides(Forward(tiny.model()), EXAMPLES, folder=tmp_path)
    assert not reused
    heavier = [replace(example, weight=9.0, id=f"other-{example.id}") for example in EXAMPLES]
    again, reused = cached_sides(Forward(tiny.model()), heavier, folder=tmp_path)
    assert reused
    assert torch.equal(first.chosen, again.chosen) and torch.equal(first.rejected, again.rejected)


@pytest.mark.parametrize("change", ["weights", "dtype", "model dtype", "tokens", "boundary", "settings"])
def test_anything_that_changes_the_values_is_computed_anew(tmp_path: Path, change: str) -> None:
    model = tiny.model(dtype=torch.float32)
    cached_sides(Forward(model), EXAMPLES, folder=tmp_path)
    examples, dtype = list(EXAMPLES), "float32"
    if change == "weights":
        with torch.no_grad():
            model.lm_head.weight[0, 0] += 1e-4
    elif change == "dtype":
        dtype = "bfloat16"
    elif change == "model dtype":
        model.double()
    elif change == "tokens":
        examples[2] = replace(examples[2], rejected_ids=(*examples[2].rejected_ids, 3))
    elif change == "boundary":
        # The same row of tokens, another part of it scored.
        example = examples[0]
        moved = (*example.prompt_ids, example.chosen_ids[0])
        examples[0] = replace(example, prompt_ids=moved, chosen_ids=example.chosen_ids[1:])
    else:
        model.config.rope_parameters = {**model.config.rope_parameters, "rope_theta": 77.0}
    _, reused = cached_sides(Forward(model, dtype), examples, folder=tmp_path)  # type: ignore[arg-type]
    assert not reused


def test_the_fingerprint_is_of_the_content() -> None:
    model, same = tiny.model(), tiny.model()
    same.config._name_or_path = "elsewhere"
    assert weights_fingerprint(model) == weights_fingerprint(same) != weights_fingerprint(tiny.model(seed=1))


def test_a_stop_while_scoring_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        cached_sides(Forward(tiny.model()), EXAMPLES, folder=tmp_path, should_stop=lambda: True)
    assert list(tmp_path.iterdir()) == []


def test_a_margin_at_the_start_is_refused_with_its_pair() -> None:
    tokens = torch.tensor([10.0, 10.0])
    check_start(torch.tensor([1e-5, -1e-5]), tokens, ["a", "b"])
    for wrong in (0.1, float("nan")):
        with pytest.raises(NumericsError, match="pairs: b"):
            check_start(torch.tensor([0.0, wrong]), tokens, ["a", "b"])
