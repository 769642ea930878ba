"""CHES: against each pair's own hidden states, and the training on the pairs that are least alike.

The reference formula is written from arXiv:2410.08847: h_k is the hidden state that predicts token
k, from the last token of the prompt to the last but one of the answer.
"""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny_training as tiny
import torch
from loop_processes import training

from command import prefine
from prefine.training.forward.passes import Forward
from prefine.training.reference.cache import ReferenceCache
from prefine.training.reference.ches import ches_of, lowest
from prefine.training.relations.pairs import TokenizedPair
from prefine.training.step_sources.share_counts import kept_below
from run_place import CONFIG, GONE, OK, PAIRS, Place

EXAMPLES = tiny.examples()


def by_definition(pair: TokenizedPair) -> float:
    """The normalised CHES of one pair, from the layers' own output on each text alone."""
    model, sums, lengths = tiny.model(), [], []
    for text in pair.texts:
        ids = torch.tensor([[*text.prompt, *text.completion]])
        with torch.no_grad():
            hidden = model.model(input_ids=ids).last_hidden_state[0].numpy()
        first = len(text.prompt) - 1
        sums.append(hidden[first:-1].sum(0))
        lengths.append(len(text.completion))
    (chosen, rejected), (of_w, of_l) = sums, lengths
    return float(np.dot(chosen, rejected) / (of_w * of_l) - np.dot(chosen, chosen) / of_w**2)


@pytest.mark.parametrize("options", [{}, {"shared": False}, {"tokens": 1}])
def test_every_pair_has_the_value_of_its_own_hidden_states(options: dict[str, int]) -> None:
    shared = replace(EXAMPLES[1], rejected_ids=EXAMPLES[0].chosen_ids)
    shared = replace(shared, prompt_ids=EXAMPLES[0].prompt_ids)
    pairs = [*EXAMPLES, shared]
    found = ches_of(Forward(tiny.model(), **options), pairs)  # type: ignore[arg-type]
    expected = [by_definition(pair) for pair in pairs]
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-10)


def test_the_lowest_are_kept_in_their_order_and_equal_ones_by_their_id() -> None:
    scores = torch.tensor([3.0, 1.0, 1.0, 0.5, 9.0, 2.0, 1.0])
    kept = [pair.id for pair in lowest(EXAMPLES, scores, 0.4)]
    assert kept == ["pair-1", "pair-2", "pair-3"]
    assert [kept_below(100, share) for share in (0.05, 0.051, 0.999, 1e-6, None)] == [
        5,
        6,
        100,
        1,
        100,
    ]


def test_values_are_kept_beside_the_reference_values(tmp_path: Path) -> None:
    first = ReferenceCache(tmp_path).ches(Forward(tiny.model()), EXAMPLES)
    (file,) = tmp_path.rglob("ches-*.safetensors")
    written = file.stat().st_mtime_ns
    assert torch.equal(ReferenceCache(tmp_path).ches(Forward(tiny.model()), EXAMPLES), first)
    assert file.stat().st_mtime_ns == written
    other = ReferenceCache(tmp_path).ches(Forward(tiny.model(seed=1)), EXAMPLES)
    assert not torch.equal(other, first)


def test_training_equals_one_on_the_pairs_that_are_kept(tmp_path: Path) -> None:
    settings = {"ches_below": 0.5, "epochs": 2}
    trained = tiny.weights(training(tmp_path / "all", settings=settings))
    values = sorted((by_definition(pair), pair.id) for pair in EXAMPLES)
    kept = {id_ for _, id_ in values[:4]}
    alone = [pair for pair in EXAMPLES if pair.id in kept]
    expected = tiny.weights(training(tmp_path / "few", settings={"epochs": 2}, examples=alone))
    assert all(torch.equal(trained[name], expected[name]) for name in expected)
    assert tiny.log(tmp_path / "all") == tiny.log(tmp_path / "few")


def test_a_run_counts_the_pairs_that_it_leaves_out_and_plans_without_them(place: Place) -> None:
    half = ("--set", "train.ches_below=0.5")
    assert prefine("run", "run.yaml", *half).code == OK
    stage = json.loads(Path("run/manifest.json").read_text())["stages"]["train"]
    counts = stage["counts"]
    reason = "its answers are more alike than train.ches_below allows"
    assert counts["produced"] == kept_below(counts["taken"], 0.5)
    assert counts["dropped"][reason] == counts["taken"] - counts["produced"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (("train.ches_below=0",), "train.ches_below"),
        (("train.ches_below=1.0",), "train.ches_below"),
        (("train.ches_below=.5", "train.reference={name: hf, path: other}"), "train.reference out"),
        (("train.ches_below=.5", "train.step_source=self_play"), "together with step_source"),
        (
            ("train.ches_below=.5", "pair.selector=lists", "train.loss=list_mle"),
            "this training reads lists",
        ),
        (
            ("train.ches_below=.5", "pair.selector=lists", "train.loss=nll"),
            "this training reads lists",
        ),
    ],
)
def test_what_it_does_not_go_together_with_is_refused(
    place: Place, settings: tuple[str, ...], message: str
) -> None:
    words = [word for one in settings for word in ("--set", one)]
    if "pair.selector=lists" in settings:
        words += ["--set", "rank.strategy=merge"]
    result = prefine("run", "run.yaml", "--dry-run", *words)
    assert result.code == CONFIG and message in result.err


@pytest.mark.parametrize(
    "loss",
    [
        {"pairs": "dpo", "lists": "list_mle", "labels": "kto"},
        {"pairs": "nll", "lists": "nll", "labels": "nll"},
    ],
)
def test_a_mixture_is_refused_by_the_names_of_all_its_kinds(
    place: Place, loss: dict[str, str]
) -> None:
    place.change(
        {
            **PAIRS,
            "lists": {"name": "file", "path": "lists.jsonl"},
            "labels": {"name": "file", "path": "labels.jsonl"},
            "train.loss": loss,
            "train.regularizer": GONE,
            "train.ches_below": 0.5,
            "train.pairs_per_step": 6,
        }
    )
    result = prefine("run", "run.yaml", "--dry-run")
    assert result.code == CONFIG
    assert (
        "train.ches_below: only pairs have a chosen and a rejected answer that can be alike, and "
        "this training reads labels, lists and pairs; take train.ches_below out, or train on pairs "
        "alone"
    ) in result.err.replace("\n", " ")
