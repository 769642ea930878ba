"""Arena-Hard judgments, v0.1 and v2.0: two games per prompt, baseline first and model first."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field, JsonValue

from prefine.data.layouts.protocol import SourceRow, rest, show
from prefine.errors import DataError
from prefine.metrics.win_rates.arena_hard import (
    STRONG_WEIGHT,
    Battles,
    arena_hard_elo,
    arena_hard_scores,
    battles,
    expanded_battles,
)
from prefine.records import Comparison, Judgment, MetricValue, Record, content_hash
from prefine.suites.figures import SAMPLES, Figures, habits
from prefine.suites.reading import (
    Once,
    choice_field,
    field,
    name_field,
    rows_of,
    text_field,
    write_lines,
)

Verdict = Literal["A>>B", "A>B", "A=B", "B>A", "B>>A", "B=A", "A<B", "A<<B", "B<A", "B<<A"]

_P_A: dict[str, float] = {
    **dict.fromkeys(("A>>B", "A>B", "B<A", "B<<A"), 1.0),
    **dict.fromkeys(("A=B", "B=A"), 0.5),
    **dict.fromkeys(("B>>A", "B>A", "A<B", "A<<B"), 0.0),
}
_IN_TEXT = re.compile(r"\[\[([AB<>=]+)\]\]")
_COLUMNS = ("uid", "question_id", "model", "judge", "baseline", "category", "games")
_WINNERS = {"model_a": 0.0, "tie": 0.5, "model_b": 1.0}
NO_VERDICT = "no verdict"
UNNAMED = "the baseline"


class ArenaJudgment(Record):
    """One prompt of one model: the verdicts with the baseline as A, and with the model as A.

    A verdict is None where there is none. `baseline` is empty where the file does not say it
    (v0.1).
    """

    prompt_id: str
    model: str
    judge: str = ""
    baseline: str = ""
    category: str = ""
    verdicts: tuple[Verdict | None, Verdict | None]
    texts: tuple[str | None, str | None] = (None, None)
    metadata: dict[str, JsonValue] = Field(default_factory=dict)

    def judgments(self, baseline: str | None = None) -> tuple[Judgment, Judgment]:
        """Both games as records; only the text says if a verdict was strong, as `[[A>>B]]`."""
        sides = [
            answer_id(self.prompt_id, name) for name in (baseline or self.baseline, self.model)
        ]
        shown = Comparison(prompt_id=self.prompt_id, first=sides[0], second=sides[1])
        first, second = (
            Judgment(
                comparison=comparison,
                judge=self.judge,
                p_first=None if verdict is None else _P_A[verdict],
                raw_text=text,
                error=NO_VERDICT if verdict is None else None,
            )
            for comparison, verdict, text in zip(
                (shown, shown.swapped()), self.verdicts, self.texts, strict=True
            )
        )
        return first, second


def answer_id(prompt_id: str, model: str) -> str:
    """The id that stands for a model's answer, whose text is in another file."""
    return content_hash("arena-hard", prompt_id, model)


def from_judgments(
    baseline_first: Judgment,
    model_first: Judgment,
    *,
    model: str,
    baseline: str,
    category: str = "",
) -> ArenaJudgment:
    """The row of two judgments of ours.

    A verdict is strong where the judge's text says so once, as `[[A>>B]]`.

    Raises:
        DataError: They are not the two orders of one pair.
    """
    if baseline_first.comparison.swapped() != model_first.comparison:
        raise DataError(
            f"prompt {baseline_first.comparison.prompt_id}: the two judgments are not one pair in "
            "both orders"
        )
    return ArenaJudgment(
        prompt_id=baseline_first.comparison.prompt_id,
        model=model,
        judge=baseline_first.judge,
        baseline=baseline,
        category=category,
        verdicts=(_label(baseline_first), _label(model_first)),
        texts=(baseline_first.raw_text, model_first.raw_text),
    )


def read_judgments(path: Path) -> list[ArenaJudgment]:
    """The judgments of a file, or of a folder with one file per model.

    Raises:
        DataError: A row lacks a field, a game is not a verdict of Arena-Hard, or a model has a
            prompt twice.
    """
    judgments, once = [], Once()
    for row in rows_of(path):
        one = _judgment(row)
        once.see(row, f"prompt {one.prompt_id} of {one.model} by judge {one.judge!r}")
        judgments.append(one)
    return judgments


def write_judgments(path: Path, judgments: Sequence[ArenaJudgment]) -> None:
    """Write judgments as Arena-Hard v2.0 has them, one JSON object a line."""
    rows = []
    for one in judgments:
        games = [
            {"score": verdict, "judgment": {"answer": text}}
            for verdict, text in zip(one.verdicts, one.texts, strict=True)
        ]
        named = {name: getattr(one, name) for name in ("category", "judge", "model", "baseline")}
        rows.append(one.metadata | {"uid": one.prompt_id, **named, "games": games})
    write_lines(path, rows)


def battles_of(judgments: Sequence[ArenaJudgment]) -> Battles:
    """The rows that `prefine.metrics.win_rates.arena_hard` takes.

    Raises:
        DataError: There are several baselines or judges; each has a leaderboard of its own.
    """
    for what in ("baseline", "judge"):
        names = sorted({getattr(one, what) for one in judgments})
        if len(names) > 1:
            raise DataError(
                f"{len(judgments)} judgments with {len(names)} {what}s "
                f"({', '.join(map(repr, names))}): scores against "
                "different ones do not compare; select the rows of one"
            )
    return battles(
        [one.model for one in judgments],
        [one.prompt_id for one in judgments],
        [one.verdicts[0] for one in judgments],
        [one.verdicts[1] for one in judgments],
    )


def read_battles(path: Path) -> tuple[Battles, str]:
    """The rows of a file of battles against one baseline, and the baseline's name.

    A battle has `question_id`, `model_a` (the baseline), `model_b` and `winner`: model_a, model_b
    or tie. A strong verdict is written out as often as it counts.

    Raises:
        DataError: A field is missing, a winner is something else, or there are several baselines.
    """
    rows = rows_of(path)
    scores = [choice_field(row, "winner", _WINNERS) for row in rows]
    baselines = sorted({text_field(row, "model_a") for row in rows})
    if len(baselines) > 1:
        raise DataError(
            f"{path}: model_a must be one baseline, found {', '.join(map(repr, baselines))}"
        )
    found = expanded_battles(
        [text_field(row, "model_b") for row in rows],
        [text_field(row, "question_id", "uid") for row in rows],
        scores,
    )
    if (found.weights > 2 * STRONG_WEIGHT).any():
        often = int(np.argmax(found.weights))
        raise DataError(
            f"{path}: {found.models[often]!r} has {found.weights[often]:g} verdicts on question "
            f"{found.prompt_ids[often]!r}; two games give at most {2 * STRONG_WEIGHT}, so rows "
            "are there twice"
        )
    return found, baselines[0]


def _judgment(row: SourceRow) -> ArenaJudgment:
    games = field(row, "games")
    if not isinstance(games, list) or len(games) != 2:
        raise DataError(
            f"{row.where}: games must be two, baseline first and model first; got {show(games)}"
        )
    verdicts, texts = zip(
        *(_game(game, f"{row.where}, game {k}") for k, game in enumerate(games)), strict=True
    )
    return ArenaJudgment(
        prompt_id=text_field(row, "uid", "question_id"),
        model=text_field(row, "model"),
        judge=name_field(row, "judge"),
        baseline=name_field(row, "baseline"),
        category=name_field(row, "category"),
        verdicts=verdicts,
        texts=texts,
        metadata=rest(row.values, *_COLUMNS),
    )


def _game(game: Any, where: str) -> tuple[Any, str | None]:
    if game is None:
        return None, None
    if not isinstance(game, dict) or "score" not in game:
        raise DataError(f"{where}: expected an object with a score, got {show(game)}")
    score, text = game["score"], game.get("judgment")
    if score is not None:
        choice_field(SourceRow(where, game), "score", _P_A)
    if isinstance(text, dict):
        text = text.get("answer")
    return score, text if isinstance(text, str) else None


def _label(judgment: Judgment) -> Any:
    if judgment.p_first is None:
        return None
    said = set(_IN_TEXT.findall(judgment.raw_text or ""))
    side = 0.0 if judgment.p_first < 0.5 else 0.5 if judgment.p_first == 0.5 else 1.0
    if len(said) == 1 and _P_A.get(only := said.pop()) == side:
        return only
    return {1.0: "A>B", 0.5: "A=B", 0.0: "B>A"}[side]


def figures(path: Path) -> Iterator[Figures]:
    """The figures of each category of a file of judgments: of its models, and of the judge."""
    boards: dict[str, list[ArenaJudgment]] = {}
    for one in read_judgments(path):
        boards.setdefault(one.category, []).append(one)
    for category, rows in boards.items():
        prefix = f"{category or 'no category'}: " if len(boards) > 1 else ""
        for part in _category_figures(path, rows, rows[0].baseline or UNNAMED):
            yield part._replace(of=prefix + part.of)


def _category_figures(
    path: Path, rows: Sequence[ArenaJudgment], baseline: str
) -> Iterator[Figures]:
    """The figures of one category; each has its own baseline, so their scores do not compare."""
    try:
        battles = battles_of(rows)
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
    yield from _scores(battles, baseline)
    baseline_first, model_first = zip(*(one.verdicts for one in rows), strict=True)
    yield habits(
        f"judge {rows[0].judge}".strip(),
        [None if verdict is None else _P_A[verdict] for verdict in baseline_first],
        # With the model first, the baseline is second.
        [None if verdict is None else 1 - _P_A[verdict] for verdict in model_first],
        prompt_ids=[one.prompt_id for one in rows],
    )


def battle_figures(path: Path) -> Iterator[Figures]:
    """The figures of the models in a file of battles."""
    yield from _scores(*read_battles(path))


def _scores(battles: Battles, baseline: str) -> Iterator[Figures]:
    board = arena_hard_scores(battles, baseline=baseline, samples=SAMPLES)
    elo: dict[str, MetricValue] = {}
    why = ""
    try:
        fitted = arena_hard_elo(battles, baseline=baseline, samples=SAMPLES)
        elo = dict(zip(fitted.models, fitted.elo, strict=True))
        if fitted.unbounded:
            why = (
                f"no interval of Elo: {fitted.unbounded:,} of {SAMPLES:,} bootstrap samples "
                "have no finite fit"
            )
    except ValueError as error:
        why = f"no Elo: {error}"
    for model, score, missing in zip(board.models, board.scores, board.missing, strict=True):
        if model == baseline:
            continue
        left_out = f"{missing:,} prompts lack a verdict in a game and are left out"
        notes = filter(None, (left_out if missing else "", why))
        yield Figures(
            f"{model} against {baseline}",
            (score, *([elo[model]] if model in elo else [])),
            tuple(notes),
        )
