"""The comparisons of a run that a person can judge, with what the run's judge said of them."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from prefine.errors import ConfigError, DataError
from prefine.judges.human import Scope
from prefine.metrics.win_rates.win_rates import win_of
from prefine.records import Completion, Prompt, content_hash
from prefine.run.rows import grouped_completions
from prefine.run.tables import column, existing_parts, read_part
from prefine.run.view import EVALUATION_JUDGMENTS, JUDGMENTS, RunView

_AFTER, _BEFORE = "evaluation/trained", "evaluation/baseline"


class Question(NamedTuple):
    """Two answers to a prompt; in an evaluation `one` is that after training, `other` before.

    Attributes:
        id: A hash of the prompt and both completions, whichever is shown first.
        prompt_id: Of the prompt.
        one: Id of a completion.
        other: Id of the other completion.
        p_one: P(one is better) by the run's judge, over the orders that were asked; None without a
            verdict, in an evaluation without one in both orders.
        disagreement: The distance of two verdicts that name different winners, of the two orders
            of a judge or of two judges (gold counts as one); 0 where none do.
        same: Both answers are the same.
    """

    id: str
    prompt_id: str
    one: str
    other: str
    p_one: float | None
    disagreement: float
    same: bool


class Shown(NamedTuple):
    """The texts of a question."""

    prompt: Prompt
    one: Completion
    other: Completion


class _Said(NamedTuple):
    """A verdict of a judge: the completion that was shown first, and P(first is better)."""

    first: str
    judge: str
    p_first: float | None


def question_id(prompt_id: str, *completions: str) -> str:
    """Return the id of a question: of a prompt and two completions, whichever is first."""
    return content_hash("question", prompt_id, *sorted(completions))


def read_questions(run: RunView, scope: Scope) -> list[Question]:
    """Read the comparisons of a run; nothing is locked or written.

    Raises:
        ConfigError: The folder holds several runs.
        DataError: The run has none (yet), or a part is damaged.
    """
    found = _evaluated(run) if scope == "evaluation" else _duels(run)
    if not found:
        raise _nothing(run, scope)
    return found


class Texts:
    """The texts of questions, read when they are shown: a run may have more than fit in memory.

    Args:
        run: The run.
        scope: Whose completions: those of the evaluation or of the ranking.
    """

    def __init__(self, run: RunView, scope: Scope) -> None:
        self._run = run
        tables = (_AFTER, _BEFORE) if scope == "evaluation" else ("completions",)
        self._parts: dict[str, list[Path]] = defaultdict(list)
        for table in tables:
            for path in existing_parts(run.path / table):
                for prompt_id in dict.fromkeys(column(path, "prompt_id")):
                    self._parts[prompt_id].append(path)

    def of(self, question: Question) -> Shown:
        """Return the prompt and both answers of a question.

        Raises:
            DataError: The run has other answers by now.
        """
        answers: dict[str, tuple[Prompt, Completion]] = {}
        for path in self._parts.get(question.prompt_id, ()):
            if path.exists():
                rows = [row for row in read_part(path) if row["prompt_id"] == question.prompt_id]
                for prompt, completions in grouped_completions(rows):
                    answers |= {one.id: (prompt, one) for one in completions}
        if not {question.one, question.other} <= answers.keys():
            raise DataError(
                f"{self._run.path}: the answers to prompt {question.prompt_id} have changed since "
                "they were listed; verdicts so far are kept: start the command again"
            )
        (prompt, one), (_, other) = answers[question.one], answers[question.other]
        return Shown(prompt, one, other)


def _evaluated(run: RunView) -> list[Question]:
    """The answers before and after training, in the order of the prompts."""
    manifest = run.manifests().get("evaluate")
    if manifest is None or not manifest.complete:
        return []
    after, before = (_one_each(run.path / table) for table in (_AFTER, _BEFORE))
    said = _by_pair(run.path / EVALUATION_JUDGMENTS)
    gold = _gold(run.outcomes())
    found = []
    for prompt_id, (one, text) in after.items():
        if prompt_id not in before:  # one of the models has not answered
            continue
        other, other_text = before[prompt_id]
        key = (prompt_id, *sorted((one, other)))
        question = _question(
            prompt_id, one, other, said.get(key, []), gold.get(prompt_id), both_orders=True
        )
        found.append(question._replace(same=text == other_text))
    return found


def _duels(run: RunView) -> list[Question]:
    """The pairs of answers that the ranking has compared so far."""
    return [
        _question(prompt_id, one, other, said, None, both_orders=False)
        for (prompt_id, one, other), said in _by_pair(run.path / JUDGMENTS).items()
    ]


def _question(
    prompt_id: str,
    one: str,
    other: str,
    said: Iterable[_Said],
    gold: float | None,
    *,
    both_orders: bool,
) -> Question:
    """Make a question of what judges said on its two answers, in whatever order."""
    orders: dict[str, dict[bool, float]] = defaultdict(dict)
    for verdict in said:
        if verdict.p_first is not None:
            as_shown = verdict.first == one
            p = verdict.p_first if as_shown else 1 - verdict.p_first
            orders[verdict.judge][as_shown] = p
    means = [
        fmean(asked.values()) for asked in orders.values() if len(asked) == 2 or not both_orders
    ]
    verdicts = [p for asked in orders.values() for p in asked.values()]
    verdicts += [] if gold is None else [gold]
    low, high = min(verdicts, default=0.5), max(verdicts, default=0.5)
    return Question(
        id=question_id(prompt_id, one, other),
        prompt_id=prompt_id,
        one=one,
        other=other,
        p_one=means[0] if means else None,
        disagreement=high - low if low < 0.5 < high else 0.0,
        same=False,
    )


def _by_pair(table: Path) -> dict[tuple[str, ...], list[_Said]]:
    """Verdicts by prompt and by the two completions in the order of their ids."""
    found: dict[tuple[str, ...], list[_Said]] = {}
    judges: Counter[str] = Counter()
    names = ("prompt_id", "first", "second", "judge", "p_first")
    # Column by column: a ranking has millions of rows, and records of them would take minutes.
    for path in existing_parts(table):
        rows = zip(*(column(path, name) for name in names), strict=True)
        for prompt_id, first, second, judge, p_first in rows:
            if second is not None:  # a rating has one completion
                key = (prompt_id, *sorted((first, second)))
                found.setdefault(key, []).append(_Said(first, judge, p_first))
                judges[judge] += 1
    # The run's judge is the one that said most; a second one is for the queue `disagree`.
    return {
        key: sorted(said, key=lambda one: (-judges[one.judge], one.judge))
        for key, said in found.items()
    }


def _one_each(table: Path) -> dict[str, tuple[str, str]]:
    """The completion of each prompt, its id and its message as stored."""
    return {
        prompt_id: (id_, message)
        for path in existing_parts(table)
        for prompt_id, id_, message in zip(
            *(column(path, name) for name in ("prompt_id", "id", "message")), strict=True
        )
    }


def _gold(outcomes: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """1 for each prompt whose answer after training has the higher gold score, 0 or .5."""
    return {
        row["prompt_id"]: win_of(
            fmean(row["gold_after"].values()) - fmean(row["gold_before"].values())
        )
        for row in outcomes
        if row.get("gold_after") and row.get("gold_before")
    }


def _nothing(run: RunView, scope: Scope) -> ConfigError | DataError:
    """The error of a run without comparisons."""
    if inner := sorted(found.parent for found in run.path.glob("*/config.json")):
        return ConfigError(f"{run.path}: holds several runs; name one of them, such as {inner[-1]}")
    if scope == "rank":
        return DataError(
            f"{run.path}: no duels of a ranking here (yet); run `prefine rank` with a judge that "
            "compares, or leave --of out for the answers of the evaluation"
        )
    return DataError(
        f"{run.path}: no evaluation with answers has ended here; run `prefine evaluate` with "
        "evaluate.prompts, or take --of rank for the duels of the ranking"
    )
