"""Reference values: computed once, reused exactly while weights, dtype and token ids are the
same.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny_training as tiny
import torch

from prefine.config.components import bind
from prefine.errors import Interrupted, NumericsError
from prefine.losses import dpo
from prefine.regularizers import budget
from prefine.training.forward.passes import Forward
from prefine.training.forward.token_values import ItemTokens
from prefine.training.loop import train
from prefine.training.objective.item_table import ItemTable
from prefine.training.reference import cache
from prefine.training.reference.cache import ReferenceCache, weights_fingerprint
from prefine.training.reference.prepare import check_start
from prefine.training.reference.scoring import score_completions, score_tokens
from prefine.training.relations.choose import named_relation
from prefine.training.relations.pairs import TokenizedPair

EXAMPLES = tiny.examples()


def cached_tokens(
    forward: Forward, examples: Any, *, folder: Path, **options: Any
) -> tuple[ItemTokens, bool]:
    """The values, and whether all were read."""
    reference_cache = ReferenceCache(folder, **options)
    return reference_cache.tokens(forward, examples), reference_cache.reused


def test_values_come_back_in_the_order_of_the_examples() -> None:
    together = score_completions(Forward(tiny.model()), EXAMPLES)
    for index, example in enumerate(EXAMPLES):
        alone = score_completions(Forward(tiny.model()), [example])
        both = together[2 * index : 2 * index + 2]
        torch.testing.assert_close(both, alone, rtol=1e-12, atol=0)
    assert not together.requires_grad


@pytest.mark.parametrize("shared", [True, False], ids=["packed", "padded"])
def test_every_token_has_the_value_of_the_models_own_logits(shared: bool) -> None:
    model = tiny.model()
    joint = replace(EXAMPLES[0], rejected_prompt_ids=(7, 3, 9, 4))
    examples = [
        joint,
        *EXAMPLES[1:],
        replace(EXAMPLES[2], chosen_ids=EXAMPLES[2].rejected_ids, rejected_ids=(5, 1)),
    ]
    found = score_tokens(Forward(model, shared=shared, tokens=40, score_prompts=True), examples)
    expected = []
    for e in examples:
        texts = [
            (e.prompt_ids, e.chosen_ids),
            (e.rejected_prompt_ids or e.prompt_ids, e.rejected_ids),
        ]
        texts = [one for text in texts for one in (text, (text[0][:1], text[0][1:]))]
        for before, text in texts:
            ids = torch.tensor([before + text])
            logps = model(ids).logits.log_softmax(-1)[0, len(before) - 1 : -1]
            expected.append(logps.gather(1, torch.tensor(text, dtype=torch.long)[:, None])[:, 0])
    torch.testing.assert_close(found.values.logps, torch.cat(expected).detach(), rtol=1e-12, atol=0)
    assert found.lengths.flatten().tolist() == [len(text) for text in expected]
    sums = torch.stack([text.sum() for text in expected]).view(-1, 2).T.detach()
    torch.testing.assert_close(
        torch.stack([found.logps(), found.prompt_logps()]), sums, rtol=1e-12, atol=0
    )


def test_the_same_question_is_read_from_the_file(tmp_path: Path) -> None:
    first, reused = cached_tokens(Forward(tiny.model()), EXAMPLES, folder=tmp_path)
    assert not reused
    heavier = [replace(example, weight=9.0, id=f"other-{example.id}") for example in EXAMPLES]
    again, reused = cached_tokens(Forward(tiny.model()), heavier, folder=tmp_path)
    assert reused
    assert torch.equal(first.values.logps, again.values.logps) and torch.equal(
        first.lengths, again.lengths
    )


@pytest.mark.parametrize(
    "change",
    [
        "weights",
        "dtype",
        "model dtype",
        "tokens",
        "boundary",
        "joint",
        "turns",
        "settings",
        "rows",
        "sharing",
        "prompts",
    ],
)
def test_anything_that_changes_the_values_is_computed_anew(tmp_path: Path, change: str) -> None:
    model = tiny.model(dtype=torch.float32)
    cached_tokens(Forward(model), EXAMPLES, folder=tmp_path)
    examples = list(EXAMPLES)
    how: dict[str, Any] = {
        "dtype": {"dtype": "bfloat16"},
        # Other rows round otherwise, and what is read must be what would be computed.
        "rows": {"tokens": 40},
        "sharing": {"shared": False},
        "prompts": {"score_prompts": True},
    }.get(change, {})
    if change == "weights":
        with torch.no_grad():
            model.lm_head.weight[0, 0] += 1e-4
    elif change == "model dtype":
        model.double()
    elif change == "tokens":
        examples[2] = replace(examples[2], rejected_ids=(*examples[2].rejected_ids, 3))
    elif change == "boundary":
        # The same row of tokens, another part of it scored.
        example = examples[0]
        moved = (*example.prompt_ids, example.chosen_ids[0])
        examples[0] = replace(example, prompt_ids=moved, chosen_ids=example.chosen_ids[1:])
    elif change == "joint":
        examples[0] = replace(examples[0], rejected_prompt_ids=(3,))
    elif change == "turns":
        examples[3] = replace(examples[3], chosen_turns=((0, 1), (2, len(examples[3].chosen_ids))))
    elif change == "settings":
        model.config.rope_parameters = {**model.config.rope_parameters, "rope_theta": 77.0}
    _, reused = cached_tokens(Forward(model, **how), examples, folder=tmp_path)
    assert not reused


def test_the_fingerprint_is_of_the_content() -> None:
    model, same = tiny.model(), tiny.model()
    same.config._name_or_path = "elsewhere"
    assert (
        weights_fingerprint(model)
        == weights_fingerprint(same)
        != weights_fingerprint(tiny.model(seed=1))
    )


def test_a_stop_while_scoring_keeps_the_parts_that_are_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "_PART", 2)
    whole, _ = cached_tokens(Forward(tiny.model()), EXAMPLES, folder=tmp_path / "whole")
    asked = 0

    def in_the_third_part() -> bool:
        nonlocal asked
        asked += 1
        return asked == 3

    with pytest.raises(Interrupted):
        cached_tokens(
            Forward(tiny.model()), EXAMPLES, folder=tmp_path / "cut", should_stop=in_the_third_part
        )
    kept = sorted((tmp_path / "cut").rglob("*"))
    assert [file.suffix for file in kept if file.is_file()] == [".safetensors"] * 2
    before = {file: file.stat().st_mtime_ns for file in kept if file.is_file()}
    resumed, reused = cached_tokens(Forward(tiny.model()), EXAMPLES, folder=tmp_path / "cut")
    assert not reused and torch.equal(resumed.values.logps, whole.values.logps)
    assert {file: file.stat().st_mtime_ns for file in before} == before


def test_a_sweep_runs_the_pass_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    passes = []

    def counted(forward: Forward, *args: Any, **kwargs: Any) -> Any:
        passes.append(forward)
        return score_tokens(forward, *args, **kwargs)

    monkeypatch.setattr(cache, "score_tokens", counted)
    for delta in (0.0, 1.0, 2.0, 5.0, 20.0):
        summary = train(
            tiny.model(),
            EXAMPLES,
            tiny.config(max_steps=1),
            loss=dpo,
            regularizer=bind("regularizer", "budget", {"delta": delta}, where="train.regularizer"),
            out_dir=tmp_path / f"delta-{delta}",
            run_key="k",
            reference_dir=tmp_path / "reference",
        )
        assert summary.reference_reused is (delta > 0)
    # A loss that reads single tokens reads the same values.
    summary = train(
        tiny.model(),
        EXAMPLES,
        tiny.config(max_steps=1),
        loss=bind("loss", "ld_dpo", {}, where="train.loss"),
        regularizer=budget,
        out_dir=tmp_path / "ld_dpo",
        run_key="k",
        reference_dir=tmp_path / "reference",
    )
    assert summary.reference_reused
    assert len(passes) == 1


def test_a_margin_at_the_start_is_refused_with_its_pair() -> None:
    pairs = [TokenizedPair(name, (1,), (2,) * 5, (3,) * 5) for name in "ab"]
    table = ItemTable.of(named_relation("pairs"), pairs, {"initial": torch.zeros(4)})
    check_start(table, torch.tensor([1e-5, 2e-5, -1e-5, 0.0]), ["a", "b"])
    check_start(table, torch.tensor([0.1, 0.1, 0.0, 0.0]), ["a", "b"])
    for wrong in (0.1, -0.1, float("nan")):
        with pytest.raises(NumericsError, match="pairs: b"):
            check_start(table, torch.tensor([0.0, 0.0, wrong, 0.0]), ["a", "b"])
