"""What may change in a begun run is said at the settings themselves, and read from there."""

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import BaseModel

from prefine.config.base import Section, marks_of
from prefine.config.marks import FREE, LATER, TRANSPORT, Mark, MayGrow
from prefine.config.named import components
from prefine.config.sections import Connection, RunConfig
from prefine.models.openai.backend import OpenAIModel
from prefine.models.served.backend import ServedModel
from prefine.run.config_changes import fingerprinted, refused_changes, with_begun_defaults

STAGES = ("sample", "rank", "pair", "bridge", "train", "evaluate", "report")
SERVER = {"name": "openai", "model": "m", "base_url": "http://here/v1", "concurrency": 4}
VALUES: dict[str, Any] = {
    "run_dir": "somewhere",
    "policy": {"name": "hf", "path": "org/model"},
    "prompts": {"name": "file", "path": "p.jsonl", "limit": 10},
    "sample": {"completions_per_prompt": 4, "model": SERVER},
    "rank": {
        "judge": {"name": "pairwise", "model": SERVER, "max_new_tokens": 64},
        "max_calls": 100,
    },
    "train": {"loss": {"name": "mixture", "losses": [{"name": "dpo"}, {"name": "nll"}]}},
    "evaluate": {
        "prompts": {"name": "file", "path": "e.jsonl", "limit": 5},
        "judge": {"name": "pairwise", "model": SERVER, "max_new_tokens": 64},
    },
}


def settings(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every setting below a section, with its path."""
    for name, field in model.model_fields.items():
        yield prefix + name, field
        for inner in (field.annotation, *get_args(field.annotation)):
            if isinstance(inner, type) and issubclass(inner, Section):
                yield from settings(inner, f"{prefix}{name}.")


def changed(path: str, value: Any) -> dict[str, Any]:
    config: dict[str, Any] = RunConfig.model_validate(VALUES).resolved()
    *parents, key = path.split(".")
    place: Any = config
    for name in parents:
        place = place[name]
    place[key] = value
    return config


def test_the_marks_of_all_settings() -> None:
    marked = {
        mark: {path for path, field in settings(RunConfig) if mark in marks_of(field, Mark)}
        for mark in (FREE, TRANSPORT, LATER)
    }
    assert marked == {
        FREE: {
            "sample.max_cost",
            "sample.max_failed_fraction",
            "rank.max_calls",
            "rank.max_cost",
            "rank.max_failed_fraction",
            "bridge.max_calls",
            "bridge.max_cost",
            "bridge.max_failed_fraction",
            "train.reference_cache",
            "train.tracking",
            "evaluate.max_failed_fraction",
            "report.title",
            "report.examples",
            "rounds.stop",
            "rounds.keep_models",
        },
        TRANSPORT: {"executor"},
        LATER: {
            "lists",
            "labels",
            "bridge",
            "rounds",
            "lineage",
            "sample.part",
            "pair.replay",
            "pair.fraction",
            "pair.only_sources",
            "train.ches_below",
            "rank.across",
            "train.reward",
            "train.step_source",
            "evaluate.metrics",
            "sample.reasoning",
            "sample.top_k",
            "evaluate.decoding.reasoning",
            "evaluate.decoding.top_k",
            "rounds.budget_since",
            "lineage.budget_since",
        },
    }
    growing = {
        path: options
        for path, field in settings(RunConfig)
        for options in (mark.options for mark in marks_of(field, MayGrow))
    }
    assert growing == {
        "prompts": ("count", "limit"),
        "completions": ("limit",),
        "sample.completions_per_prompt": (),
        "rounds.count": (),
        "rank.judge": ("max_new_tokens",),
        "bridge.judge": ("max_new_tokens",),
        "bridge.max_new_tokens": (),
        "evaluate.judge": ("max_new_tokens",),
        "evaluate.metrics": (),
    }


def test_every_way_to_reach_a_server_is_an_option_of_the_backend_that_does() -> None:
    known = (inspect.signature(model).parameters.keys() for model in (OpenAIModel, ServedModel))
    assert Connection.model_fields.keys() <= set().union(*known)


@pytest.mark.parametrize(
    ("path", "value", "allowed"),
    [
        ("prompts.limit", 11, True),
        ("prompts.limit", None, True),
        ("prompts.limit", 9, False),
        ("evaluate.prompts.limit", 6, False),
        ("rank.judge.max_new_tokens", 65, True),
        ("rank.judge.max_new_tokens", 63, False),
        ("rank.judge.model.max_new_tokens", 65, False),
        ("rank.judge.model.concurrency", 1, True),
        ("evaluate.judge.model.base_url", "http://there/v1", True),
        ("sample.model.prices", {"prompt": 1.0, "completion": 2.0}, True),
        ("sample.model.model", "n", False),
        ("sample.completions_per_prompt", 5, True),
        ("sample.completions_per_prompt", 3, False),
        ("sample.temperature", 1.0, False),
        ("rank.max_calls", 1, True),
        ("train.tracking.project", "other", True),
        ("train.reference_cache", "elsewhere", True),
        ("report.title", "other", True),
        ("executor", {"name": "ray", "address": "auto"}, True),
        ("evaluate.metrics", [{"name": "diversity"}], True),
    ],
)
def test_what_a_begun_run_may_change(path: str, value: Any, allowed: bool) -> None:
    before = RunConfig.model_validate(VALUES).resolved()
    assert (refused_changes(before, changed(path, value), STAGES) == []) is allowed


def test_a_run_begun_with_an_earlier_default_goes_on_with_it() -> None:
    config = RunConfig.model_validate(VALUES)
    assert config.pair.held_out_prompts == "auto"
    begun = config.resolved() | {"pair": {**config.resolved()["pair"], "held_out_prompts": 0}}
    assert with_begun_defaults(config, {}) == config
    assert with_begun_defaults(config, config.resolved()) == config
    kept = with_begun_defaults(config, begun)
    assert kept.pair.held_out_prompts == 0
    assert refused_changes(begun, kept.resolved(), STAGES) == []
    for asked in ("auto", 3):
        explicit = RunConfig.model_validate(VALUES | {"pair": {"held_out_prompts": asked}})
        assert with_begun_defaults(explicit, begun) == explicit


def test_what_changes_no_result_enters_no_hash() -> None:
    before = fingerprinted(RunConfig.model_validate(VALUES).resolved())
    for path, value, same in (
        ("rank.judge.model.base_url", "http://there/v1", True),
        ("train.tracking.project", "other", True),
        ("rank.max_cost", 1.0, True),
        ("prompts.limit", 11, False),
        ("train.seed", 1, False),
        ("train.step_source", {"name": "shuffled"}, True),
        ("train.step_source", {"name": "my_module:Mine"}, False),
    ):
        assert (fingerprinted(changed(path, value)) == before) is same, path


def test_a_key_that_came_later_enters_no_hash_at_its_default() -> None:
    now = RunConfig.model_validate(VALUES).resolved()
    evaluate = dict(now["evaluate"])  # type: ignore[arg-type, call-overload]
    assert evaluate.pop("metrics") == []
    older = {**now, "evaluate": evaluate}
    assert fingerprinted(older) == fingerprinted(now)
    assert "metrics" not in fingerprinted(now)["evaluate"]  # type: ignore[operator]
    assert fingerprinted(changed("evaluate.metrics", [{"name": "diversity"}])) != fingerprinted(now)
    assert refused_changes(older, now, STAGES) == []


def test_metrics_can_be_added_and_not_taken_away() -> None:
    one, two = {"name": "diversity"}, {"name": "verdict_rates"}
    before, after = (changed("evaluate.metrics", found) for found in ([one], [two, one]))
    assert refused_changes(before, after, STAGES) == []
    (refused,) = refused_changes(after, before, STAGES)
    assert refused.startswith("evaluate.metrics: ")


def test_components_are_found_by_walking_the_configuration() -> None:
    config = RunConfig.model_validate(VALUES)
    found = [(path, kind, component.name) for path, kind, component in components(config)]
    assert found == [
        ("policy", "backend", "hf"),
        ("prompts", "source", "file"),
        ("sample.model", "backend", "openai"),
        ("rank.strategy", "strategy", "iterative"),
        ("rank.judge", "judge", "pairwise"),
        ("rank.judge.model", "backend", "openai"),
        ("pair.selector", "selector", "best_vs_random"),
        ("train.loss", "loss", "mixture"),
        ("train.loss.losses.0", "loss", "dpo"),
        ("train.loss.losses.1", "loss", "nll"),
        ("train.step_source", "step_source", "shuffled"),
        ("evaluate.prompts", "source", "file"),
        ("evaluate.judge", "judge", "pairwise"),
        ("evaluate.judge.model", "backend", "openai"),
        ("executor", "executor", "local"),
    ]
    assert config.run_dir == Path("somewhere")


def test_a_budget_begun_with_chosen_answers_alone_goes_on_with_them() -> None:
    automatic = {"regularizer": {"name": "budget", "delta": 3.0}, "regularizer_weight": "auto"}
    config = RunConfig.model_validate({**VALUES, "train": automatic})
    begun = config.resolved()
    assert begun["train"]["regularizer"] == automatic["regularizer"]  # type: ignore[index, call-overload]
    assert with_begun_defaults(config, begun) == config
    for earlier in ({}, {"train": {"regularizer": None, "regularizer_weight": 0.1}}):
        now = with_begun_defaults(config, earlier).train.regularizer
        assert now is not None and now.options == {"delta": 3.0, "anchor": "auto"}
        stated = RunConfig.model_validate(
            {
                **VALUES,
                "train": {**automatic, "regularizer": {"name": "budget", "anchor": "unused"}},
            }
        )
        assert with_begun_defaults(stated, earlier) == stated
    fixed = RunConfig.model_validate({**VALUES, "train": {"regularizer": {"name": "budget"}}})
    assert with_begun_defaults(fixed, {}) == fixed


def test_a_stated_default_is_no_change() -> None:
    def made(beta: dict[str, float], dtype: dict[str, str], weight: float = 0.5) -> RunConfig:
        train = {
            "loss": {"name": "mixture", "losses": [{"name": "dpo", **beta}, {"name": "nll"}]},
            "reference": ["initial", {"name": "hf", "path": "other", "weight": weight, **dtype}],
        }
        return RunConfig.model_validate({**VALUES, "train": train})

    plain, stated = made({}, {}), made({"beta": 0.1}, {"dtype": "auto"})
    for begun, now in ((plain, stated), (stated, plain)):
        kept = with_begun_defaults(now, begun.resolved())
        assert kept == begun
        assert refused_changes(begun.resolved(), kept.resolved(), STAGES) == []
        assert fingerprinted(kept.resolved()) == fingerprinted(begun.resolved())
    for changed_one in (made({"beta": 0.2}, {}), made({}, {"dtype": "float32"})):
        assert with_begun_defaults(changed_one, plain.resolved()) == changed_one
    other = made({}, {"dtype": "auto"}, weight=0.25)
    kept = with_begun_defaults(other, plain.resolved())
    (line,) = refused_changes(plain.resolved(), kept.resolved(), STAGES)
    assert line.startswith("train.reference: ")
    assert "0.25" in line
