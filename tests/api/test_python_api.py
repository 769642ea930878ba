"""The Python API: the pipeline on objects in memory; its names and signatures are promised."""

import inspect
import json
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import openai_server as server
import prefine
from openai_server import OpenAIServer
from prefine.errors import ConfigError, DataError, LimitError
from prefine.judges.protocol import Verdict
from prefine.records import Completion, Message, Prompt
from tiny_model import save_tiny_model

SIGNATURES = {
    "sample": (
        "(model, prompts, *, completions_per_prompt=8, temperature=0.9, top_p=1.0, "
        "top_k=None, max_new_tokens=512, seed=0, "
        "max_failed_fraction=0.02, journal=None, progress=True)"
    ),
    "rank": (
        "(prompts, completions, *, judge, strategy='iterative', scorer=None, seed=0, "
        "max_calls=None, max_cost=None, "
        "max_failed_fraction=0.02, journal=None, progress=True)"
    ),
    "make_pairs": (
        "(prompts, completions, rankings, *, selector='best_vs_random', min_gap=None, "
        "min_p_chosen=None, "
        "max_length_ratio=None, length_penalty=0.0, drop_truncated=False, pairs_per_prompt=None, "
        "seed=0)"
    ),
    "make_labels": (
        "(prompts, completions, rankings, *, selector='labelled', length_penalty=0.0, "
        "drop_truncated=False, seed=0)"
    ),
    "make_lists": (
        "(prompts, completions, rankings, *, selector='lists', min_gap=None, "
        "max_length_ratio=None, "
        "length_penalty=0.0, drop_truncated=False, seed=0)"
    ),
    "train": "(policy, pairs, *, output_dir, settings=None, held_out='auto', progress=True)",
    "evaluate": (
        "(model, prompts, *, baseline, judge, temperature=0.9, max_new_tokens=512, seed=0, "
        "bootstrap_samples=2000, "
        "max_failed_fraction=0.02, journal=None, progress=True)"
    ),
    "read_completions": "(source, *, strict=False)",
    "read_pairs": "(source, *, strict=False)",
    "read_prompts": "(source, *, strict=False)",
    "sequence_logps": "(model, batch)",
    "simulate": (
        "(completions, *, judge=None, strategies=None, worlds=2000, seed=0, prices=None, "
        "max_calls=None, "
        "max_cost=None, processes=1, progress=True)"
    ),
}


def words(prompt: Prompt, completion: Completion, *, wanted: int = 12) -> float:
    """A scorer of ours: as near to the wanted number of words as possible."""
    return -abs(len(completion.text.split()) - wanted)


def bare(function: Any) -> str:
    """A signature without annotations."""
    signature = inspect.signature(function)
    parameters = [
        p.replace(annotation=inspect.Parameter.empty) for p in signature.parameters.values()
    ]
    return str(signature.replace(parameters=parameters, return_annotation=inspect.Signature.empty))


def test_the_stable_surface() -> None:
    """A change here is a change for every user: it belongs into the changelog."""
    assert {name: bare(getattr(prefine, name)) for name in SIGNATURES} == SIGNATURES
    assert set(prefine.__all__) == {
        *SIGNATURES,
        *("JudgeModel", "Prices"),
        *(
            "Completion",
            "LabelledCompletion",
            "PreferenceList",
            "PreferencePair",
            "Prompt",
            "Ranking",
            "Records",
            "TrainConfig",
            "Trained",
        ),
        "__version__",
        *("losses", "metrics", "ranking", "regularizers"),
    }
    for name in prefine.__all__:
        assert getattr(prefine, name) is not None
    assert callable(prefine.losses.dpo) and callable(prefine.regularizers.budget)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        prefine.nothing  # noqa: B018


def test_every_public_function_says_what_it_takes_and_raises() -> None:
    for name in SIGNATURES:
        text = inspect.getdoc(getattr(prefine, name)) or ""
        parameters = inspect.signature(getattr(prefine, name)).parameters
        assert "Raises:" in text and all(f"{parameter}:" in text for parameter in parameters), name


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_tiny_model(tmp_path_factory.mktemp("api") / "model"))


TASKS = ["write about tea", "write about the kettle", "a short answer", "the bright answer"]


def test_the_pipeline_in_memory(tiny: str, tmp_path: Path) -> None:
    completions = prefine.sample(
        tiny, TASKS, completions_per_prompt=4, temperature=1.0, max_new_tokens=12
    )
    assert len(completions) == 16
    assert completions == prefine.sample(
        tiny, TASKS, completions_per_prompt=4, temperature=1.0, max_new_tokens=12
    )
    rankings = prefine.rank(TASKS, completions, judge=words)
    assert [ranking.prompt_id for ranking in rankings] == [
        Prompt.from_text(task).id for task in TASKS
    ]
    by_id = {completion.id: completion for completion in completions}
    for ranking in rankings:
        scores = [words(Prompt.from_text(""), by_id[id_]) for id_ in ranking.completions]
        assert ranking.champion is not None
        assert words(Prompt.from_text(""), by_id[ranking.champion]) == max(scores)
    pairs = prefine.make_pairs(TASKS, completions, rankings)
    settings = {
        "adapter": {"name": "lora", "rank": 2},
        "pairs_per_step": 2,
        "learning_rate": 1e-2,
        "train_on_truncated": True,
    }
    trained = prefine.train(tiny, pairs, output_dir=tmp_path / "run", settings=settings)
    assert [step.step for step in trained.steps] == list(range(1, 1 + -(-len(pairs) // 2)))
    assert trained.final.pairs == len(pairs)
    assert trained.final.margin > 0
    # Again: nothing is trained anew.
    stamp = (trained.path / "adapter_model.safetensors").stat().st_mtime_ns
    assert prefine.train(tiny, pairs, output_dir=tmp_path / "run", settings=settings) == trained
    assert (trained.path / "adapter_model.safetensors").stat().st_mtime_ns == stamp
    found = prefine.evaluate(trained, TASKS, baseline=tiny, judge=words, max_new_tokens=12)
    (contest,) = found.contests
    assert contest.wins + contest.ties + contest.losses == len(TASKS)
    assert {metric.name for metric in found.metrics} >= {
        "first_slot_rate",
        "mean_length_after",
        "mean_tokens_after",
    }


def test_other_strategies_and_selectors(tiny: str) -> None:
    completions = prefine.sample(
        tiny, TASKS, completions_per_prompt=3, temperature=1.0, max_new_tokens=12
    )
    rankings = prefine.rank(
        TASKS, completions, judge=words, strategy={"name": "round_robin", "order": "both"}
    )
    pairs = prefine.make_pairs(TASKS, completions, rankings, selector="all_pairs", min_gap=0.0)
    assert pairs
    lists = prefine.make_lists(TASKS, completions, rankings)
    assert {found.prompt.id for found in lists} == {pair.prompt.id for pair in pairs}
    labels = prefine.make_labels(TASKS, completions, rankings)
    above_all = {"name": "labelled", "above": 1e9}
    none_good = prefine.make_labels(TASKS, completions, rankings, selector=above_all)
    scores = {
        id_: score
        for found in rankings
        for id_, score in zip(found.completions, found.scores or (), strict=True)
    }
    assert {one.completion.id for one in none_good} == set(scores)
    assert not any(one.desirable for one in none_good)
    for prompt in {one.prompt.id for one in labels}:
        of_prompt = [one for one in labels if one.prompt.id == prompt]
        good = [scores[one.completion.id] for one in of_prompt if one.desirable]
        bad = [scores[one.completion.id] for one in of_prompt if not one.desirable]
        assert min(good) > max(bad), "the mean of the prompt's scores lies between them"
    with pytest.raises(ConfigError, match=r"'labelled' makes labelled answers; call make_labels"):
        prefine.make_pairs(TASKS, completions, rankings, selector="labelled")
    with pytest.raises(ConfigError, match=r"'lists' makes lists; call make_lists"):
        prefine.make_labels(TASKS, completions, rankings, selector="lists")
    with pytest.raises(ConfigError, match="reads no ranking but the prompts' reference answers"):
        prefine.make_pairs(TASKS, completions, rankings, selector="reference_vs_sample")
    with pytest.raises(ConfigError, match=r"'lists' makes lists; call make_lists"):
        prefine.make_pairs(TASKS, completions, rankings, selector="lists")
    with pytest.raises(ConfigError, match=r"'all_pairs' makes pairs; call make_pairs"):
        prefine.make_lists(TASKS, completions, rankings, selector="all_pairs")
    scanned = prefine.rank(TASKS, completions, judge=words)
    with pytest.raises(ConfigError, match="does not guarantee"):
        prefine.make_pairs(TASKS, completions, scanned, selector="best_vs_worst")


def test_ratings_come_from_the_scorer_or_from_a_judge_that_can_rate() -> None:
    completions = prefine.sample(REPLIES, ["p", "q"], completions_per_prompt=6)
    texts = {completion.id: completion.text for completion in completions}
    for judge, scorer in ((Shorter(), words), (words, None)):
        rankings = prefine.rank(
            ["p", "q"], completions, judge=judge, scorer=scorer, strategy="pointwise"
        )
        for ranking in rankings:
            assert ranking.scores == tuple(
                -abs(len(texts[id_].split()) - 12) for id_ in ranking.completions
            )
    with pytest.raises(ConfigError, match=r"strategy: 'pointwise' asks for ratings.*give scorer"):
        prefine.rank(["p", "q"], completions, judge=Shorter(), strategy="pointwise")
    with pytest.raises(ConfigError, match="scorer: strategy 'iterative' asks for no ratings"):
        prefine.rank(["p", "q"], completions, judge=Shorter(), scorer=words)


def test_messages_records_and_models_by_mapping() -> None:
    replies = {
        "name": "scripted",
        "replies": ["short", "a much longer answer {sample}", "middle one"],
    }
    prompt = Prompt.from_text("hello")
    chat = [{"role": "system", "content": "be kind"}, {"role": "user", "content": "hi"}]
    completions = prefine.sample(replies, [prompt, chat], completions_per_prompt=5)
    assert [completion.prompt_id for completion in completions[:5]] == [prompt.id] * 5
    (first, _) = prefine.rank(
        [prompt, chat], completions, judge={"name": f"{__name__}:words", "wanted": 1}
    )
    assert {completion.id: completion.text for completion in completions}[
        first.champion or ""
    ] == "short"


def test_rows_in_memory_and_files(tmp_path: Path) -> None:
    rows = [
        {"prompt": "a", "chosen": "b", "rejected": "c"},
        {"prompt": "d", "chosen": "e", "rejected": "f"},
    ]
    file = tmp_path / "pairs.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    pairs = prefine.read_pairs(rows)
    assert [pair.id for pair in pairs] == [pair.id for pair in prefine.read_pairs(file)]
    assert [
        pair.id for pair in prefine.read_pairs({"name": "file", "path": str(file), "limit": 1})
    ] == [pairs[0].id]
    with pytest.warns(UserWarning, match="set aside: 1"):
        assert len(prefine.read_pairs([*rows, rows[0]])) == 2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(DataError, match="row 2"):
            prefine.read_pairs([*rows, rows[0]], strict=True)
    prompts, completions = prefine.read_completions([{"prompt": "p", "completions": ["x", "y"]}])
    assert [completion.prompt_id for completion in completions] == [prompts[0].id] * 2
    assert [prompt.text for prompt in prefine.read_prompts([{"prompt": "p"}])] == ["p"]


class Half:
    """Half a judge."""

    def compare(self, prompt: Prompt, first: Completion, second: Completion) -> None:
        """Nothing."""


class Shorter:
    """A judge of one's own, as an object."""

    fingerprint, first_slot_bias = "shorter", 0.0

    def check(self, prompt: Prompt, completions: list[Completion]) -> None:
        pass

    def compare(self, prompt: Prompt, first: Completion, second: Completion) -> Verdict:
        return Verdict(float(len(first.text) < len(second.text)))


REPLIES = {"name": "scripted", "replies": ["a", "bb", "ccc", "dddd"]}


@pytest.mark.parametrize(
    "judge",
    [
        Shorter(),
        lambda prompt, completion: -len(completion.text),
        partial(words, wanted=0),
        {"name": "pairwise", "model": {"name": "scripted", "replies": ["A"]}},
    ],
    ids=["object", "lambda", "partial", "mapping"],
)
def test_anything_that_judges_is_a_judge(judge: Any) -> None:
    completions = prefine.sample(REPLIES, ["p", "q"], completions_per_prompt=6)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert len(prefine.rank(["p", "q"], completions, judge=judge)) == 2


def test_repeated_prompts_count_once_and_that_is_said() -> None:
    with pytest.warns(UserWarning, match="1 prompts are repeated"):
        assert len(prefine.sample(REPLIES, ["a", "a"], completions_per_prompt=2)) == 2


def test_a_journal_keeps_what_was_paid_when_a_limit_ends_the_call(tmp_path: Path) -> None:
    completions = prefine.sample(REPLIES, ["p", "q", "r"], completions_per_prompt=4)
    calls: list[str] = []

    def judge(prompt: Prompt, completion: Completion) -> float:
        calls.append(completion.id)
        return float(len(completion.text))

    with pytest.raises(LimitError, match="give journal=FILE"):
        prefine.rank(["p", "q", "r"], completions, judge=judge, max_calls=8)
    calls.clear()
    with pytest.raises(LimitError, match="journaled"):
        prefine.rank(
            ["p", "q", "r"],
            completions,
            judge=judge,
            max_calls=8,
            journal=tmp_path / "calls.sqlite",
        )
    before = len(calls)
    assert before > 0
    rankings = prefine.rank(
        ["p", "q", "r"], completions, judge=judge, journal=tmp_path / "calls.sqlite"
    )
    assert len(rankings) == 3
    assert len(calls) == len(set(calls)), "nothing that was answered is asked for again"


def test_rows_of_a_dataset_train(tiny: str, tmp_path: Path) -> None:
    from datasets import Dataset

    rows = [
        {"prompt": f"write about {n}", "chosen": f"the kettle {n}", "rejected": "tea"}
        for n in range(3)
    ]
    with pytest.warns(UserWarning, match="duplicate pair"):
        trained = prefine.train(
            tiny, Dataset.from_list([*rows, rows[0]]), output_dir=tmp_path / "rows"
        )
    assert trained.final.pairs == 3
    pairs = prefine.read_pairs(rows)
    with pytest.warns(UserWarning, match="3 pairs are repeated"):
        assert prefine.train(tiny, pairs + pairs, output_dir=tmp_path / "pairs").final.pairs == 3


def test_what_a_server_ignores_is_told() -> None:
    with OpenAIServer(server.ignores_n) as at:
        model = {"name": "openai", "model": "m", "base_url": at.url}
        with pytest.warns(UserWarning, match="ignores n"):
            prefine.sample(model, ["p"], completions_per_prompt=3)


def orphan() -> Completion:
    message = Message(role="assistant", content="x")
    return Completion(id="c", prompt_id="nobody", sample_index=0, message=message)


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda: prefine.sample("no/such/folder", ["p"]), Exception, "no such model folder"),
        (lambda: prefine.sample({"name": "scripted"}, ["p"]), ConfigError, "model.replies"),
        (
            lambda: prefine.sample("playground", ["p"], temperature=-1),
            ConfigError,
            "sample.temperature",
        ),
        (
            lambda: prefine.sample("playground", [[{"role": "king", "content": "x"}]]),
            DataError,
            "prompt 0",
        ),
        (lambda: prefine.sample("playground", "hello"), ConfigError, "expected a list"),
        (lambda: prefine.sample(object(), ["p"]), ConfigError, "got a object; save a model"),
        (
            lambda: prefine.rank(["p"], ["text"], judge=words),
            DataError,
            "expected Completions, got a str",
        ),
        (lambda: prefine.train("playground", ["text"], output_dir="x"), DataError, "got a str"),
        (lambda: prefine.rank(["p"], [orphan()], judge=words), DataError, "not among those given"),
        (lambda: prefine.rank(["p"], [], judge=Half), ConfigError, "is a class"),
        (
            lambda: prefine.rank(["p"], [], judge=Half()),
            ConfigError,
            "no fingerprint, first_slot_bias, check",
        ),
        (lambda: prefine.rank(["p"], [], judge=7), ConfigError, "is no judge"),
        (lambda: prefine.rank(["p"], [], judge="wise"), ConfigError, "unknown judge 'wise'"),
        (
            lambda: prefine.train("playground", [], output_dir="x", settings={"beta": 1}),
            ConfigError,
            "settings.beta",
        ),
    ],
)
def test_what_does_not_fit_is_refused(
    call: Any, error: type[Exception], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=says):
        call()


def test_failures_are_not_hidden() -> None:
    broken = {"name": "scripted", "replies": ["a"], "fail_share": 0.5}
    with pytest.raises(LimitError, match="scripted failure"):
        prefine.sample(broken, ["a", "b", "c"], completions_per_prompt=8)
    with pytest.warns(UserWarning, match="completions failed and are missing"):
        found = prefine.sample(
            broken, ["a", "b", "c"], completions_per_prompt=8, max_failed_fraction=1.0
        )
    assert 0 < len(found) < 24
