"""Several references in the engine: their order, their weights, and models that are let go."""

import json
from pathlib import Path
from typing import Any

import pytest
import tiny_training as tiny
import torch

from prefine.losses import dpo, mrpo
from prefine.losses.protocol import PairLogps, declare
from prefine.losses.regularizers.budget import budget
from prefine.training.items import NOT_READ_WHOLE, OtherTokens, Text
from prefine.training.loop import train
from prefine.training.objective.item_table import Compared, ItemTable
from prefine.training.reference.models import ReferenceModel, References
from prefine.training.reference.prepare import confidence_weights, names_of
from prefine.training.relations.choose import named_relation

SEEN: list[PairLogps] = []


@declare(needs=frozenset({"reference", "references"}))
def looking(logps: PairLogps) -> torch.Tensor:
    """`mrpo`, which keeps what it was given."""
    SEEN.append(logps)
    return mrpo(logps, weights="held_out")


def _reference(seed: int, loads: list[int] | None = None, **options: Any) -> ReferenceModel:
    def load() -> Any:
        if loads is not None:
            loads.append(seed)
        return tiny.model(seed=seed, dtype=torch.float32)

    return ReferenceModel(load, **options)


def test_the_weights_of_held_out_pairs_are_shares_of_what_each_reference_says_of_them() -> None:
    items = tiny.examples(2)
    logps = {
        "initial": torch.tensor([-1.0, -3.0, -5.0, -4.0]),  # 2 and 1 nats apart
        "reference": torch.tensor([-1.0, -1.0, -1.0, -10.0]),  # 0 and 9
        "reference 3": torch.zeros(4),
    }
    names = names_of([object(), None, object()])
    assert names == ("reference", "initial", "reference 3")
    table = ItemTable.of(named_relation("pairs"), items, logps, compared=Compared(names))
    assert confidence_weights(table, names) == (0.75, 0.25, 0.0)
    assert confidence_weights(table, ("reference 3", "reference 3")) == (0.5, 0.5)


def test_a_step_has_all_references_in_their_order(tmp_path: Path) -> None:
    SEEN.clear()
    loads: list[int] = []
    references = [
        _reference(4, loads, weight=0.5),
        ReferenceModel(weight=0.3),
        _reference(5, loads, weight=0.2),
    ]
    model = tiny.model(dtype=torch.float32)

    def policy() -> Any:
        assert loads == [4, 5], "each is loaded once, before the policy"
        return model

    def run(folder: str, policy: Any) -> None:
        train(
            policy,
            tiny.examples(),
            tiny.config(max_steps=1, micro_batch_tokens=1000),
            loss=looking,
            regularizer=None,
            out_dir=tmp_path / folder,
            run_key="key",
            references=references,
            held_out=tiny.examples(5, seed=3),
        )

    run("first", policy)
    found = SEEN[0]
    assert found.other_references is not None
    assert found.other_references.weights == (0.5, 0.3, 0.2)
    assert found.other_references.chosen.shape[1] == 2
    weights = found.other_references.held_out_weights
    assert weights is not None and sum(weights) == pytest.approx(1) and min(weights) > 0
    # The second one is the policy at step 0.
    held_out = [logps.other_references for logps in SEEN if len(logps.weight) == 5]
    assert held_out and held_out[0] is not None
    torch.testing.assert_close(held_out[0].chosen[:, 0], _logps(tiny.examples(5, seed=3)))
    assert len([*(tmp_path / "first" / "reference").iterdir()]) == 3


@declare(needs=frozenset({"reference", "references", "initial", "tokens"}))
def looking_back(logps: PairLogps) -> torch.Tensor:
    """`dpo`, which keeps what it was given."""
    SEEN.append(logps)
    return dpo(logps)


@pytest.mark.parametrize(
    ("references", "compared"),
    [
        ([ReferenceModel()], [0]),
        ([_reference(5)], [5]),
        ([_reference(5, weight=0.5), ReferenceModel(weight=0.5)], [5, 0]),
    ],
)
def test_falls_count_from_a_first_policy(
    tmp_path: Path, references: list[ReferenceModel], compared: list[int]
) -> None:
    """The policy at step 0 (seed 0) goes on from the first one (seed 4)."""
    SEEN.clear()
    loads: list[int] = []
    items = tiny.examples(5)

    def policy() -> Any:
        assert loads == [4], "it is scored before the policy is loaded"
        return tiny.model(dtype=torch.float32)

    train(
        policy,
        items,
        tiny.config(pairs_per_step=5, max_steps=1, micro_batch_tokens=1000),
        loss=looking_back,
        regularizer=budget,
        out_dir=tmp_path,
        run_key="key",
        references=references,
        held_out=items,
        first_policy=_reference(4, loads),
    )
    first, own = _logps(items, seed=4), _logps(items, seed=0)
    # Before the first step the items are evaluated in their order.
    found = next(logps for logps in SEEN if len(logps.weight) == 5)
    assert found.initial_chosen is not None and found.tokens is not None
    torch.testing.assert_close(found.initial_chosen, first)
    assert found.tokens.initial_chosen is not None
    torch.testing.assert_close(found.tokens.initial_chosen.sum(1), first)
    torch.testing.assert_close(found.ref_chosen, _logps(items, seed=compared[0]))
    if compared[1:]:
        assert found.other_references is not None
        torch.testing.assert_close(found.other_references.chosen[:, 0], own)
    before = json.loads((tmp_path / "eval_log.jsonl").read_text().splitlines()[0])
    assert before["fall"] == pytest.approx(float((first - own).mean()), abs=1e-4)
    assert float((first - own).abs().min()) > 0.01, "the two differ on every answer"


def _logps(items: Any, *, seed: int = 0) -> torch.Tensor:
    """Of the chosen answers, each alone, under the policy at step 0, or a model of another seed."""
    model = tiny.model(seed=seed, dtype=torch.float32)
    found = []
    for item in items:
        ids = torch.tensor([[*item.prompt_ids, *item.chosen_ids]])
        with torch.no_grad():
            logps = model(ids).logits.log_softmax(-1)[0, len(item.prompt_ids) - 1 : -1]
        found.append(logps.gather(1, ids[0, len(item.prompt_ids) :, None]).sum())
    return torch.stack(found)


def test_items_that_were_not_foreseen_are_scored_by_a_model_that_is_loaded_again(
    tmp_path: Path,
) -> None:
    from prefine.training.reference.cache import ReferenceCache

    loads: list[int] = []
    references = References(
        [ReferenceModel(weight=0.5), _reference(4, loads, weight=0.5)],
        tiny.config(),
        frozenset({"reference", "references"}),
        ReferenceCache(tmp_path),
    )
    items, others = tiny.examples(3), tiny.examples(3, seed=8)
    references.score([items])
    first, second = references.values(items)
    assert first is None and second is not None and second.logps.shape == (6,)
    assert loads == [4]
    for _ in range(2):
        assert references.values(others)[1] is not None
    assert loads == [4, 4, 4], "nothing is kept of them but the file"
    assert references.cache.reused is False and len([*tmp_path.rglob("*.safetensors")]) == 2


class _Reader:
    """Reads a text as given."""

    def __init__(self, text: Text | None) -> None:
        self.text = text

    def read(self, prompt: Any, completion: Any) -> Any:
        from prefine.training.items import ReadText

        return ReadText(self.text, "" if self.text else "empty_side")


def test_a_text_that_a_reference_cannot_read_whole_is_not_kept() -> None:
    ours, theirs = Text((1, 2), (3, 4)), Text((7,), (8, 9, 5))
    prompt: Any = None
    found = OtherTokens(_Reader(theirs), positions=3)  # type: ignore[arg-type]
    assert found.add(ours, prompt, prompt)
    item = tiny.examples(1)[0]
    twice = type(item)("id", ours.prompt, ours.completion, ours.completion, weight=2.0)
    read = found.item(twice)
    assert (read.id, read.weight, read.texts) == ("id", 2.0, (theirs, theirs))
    assert not OtherTokens(_Reader(theirs), positions=2).add(ours, prompt, prompt)  # type: ignore[arg-type]
    assert not OtherTokens(_Reader(None)).add(ours, prompt, prompt)  # type: ignore[arg-type]
    assert NOT_READ_WHOLE.endswith("other_tokens")
