"""LLMBar: pairs with a label, and a judge's verdicts on them in both orders."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import Field, JsonValue

from prefine.data.layouts.protocol import SourceRow, rest, show
from prefine.errors import DataError
from prefine.records import Comparison, Completion, Judgment, PreferencePair, Prompt, Record
from prefine.suites.reading import Once, answer_to, field, rows_of, text_field, write_list

_OWN = ("input", "instruction", "output_1", "output_2", "label", "subset", "results")
_ORDERS = ("swap = False", "swap = True")
NO_VERDICT = "no verdict"
_P_ONE = {0: None, 1: 1.0, 2: 0.0}


class LabelledPair(Record):
    """Two answers to one prompt, and which of them people found better. `subset` is empty in LLMBar's own files."""

    prompt: Prompt
    one: Completion
    two: Completion
    label: Literal[1, 2]
    subset: str = ""
    metadata: dict[str, JsonValue] = Field(default_factory=dict)

    def preference(self) -> PreferencePair:
        """The pair with its better answer as chosen.

        Raises:
            ValueError: Both answers are the same text.
        """
        chosen, rejected = (self.one, self.two) if self.label == 1 else (self.two, self.one)
        return PreferencePair(prompt=self.prompt, chosen=chosen, rejected=rejected)


class JudgedPair(NamedTuple):
    """A pair with a judge's answers: `original` with answer 1 shown first, `swapped` with answer 2 shown first."""

    pair: LabelledPair
    original: Judgment
    swapped: Judgment


class LabelledVerdicts(NamedTuple):
    """What `prefine.metrics.judges.verdicts` takes: labels, and P(answer 1 is better) in each order; None no verdict."""

    labels: list[int]
    p_one: list[float | None]
    p_one_swapped: list[float | None]


def read_instances(path: Path) -> list[LabelledPair]:
    """The pairs of a `dataset.json`, or of JSON Lines with `instruction` instead of `input`.

    Raises:
        DataError: A row lacks a field, or its label is not 1 or 2; the message has the row.
    """
    return [_pair(row) for row in rows_of(path)]


def write_instances(path: Path, pairs: Sequence[LabelledPair]) -> None:
    """Write pairs as LLMBar's `dataset.json`.

    Raises:
        DataError: A prompt is not a single user turn, which this file cannot hold.
    """
    write_list(path, [_instance(pair) for pair in pairs])


def read_results(path: Path, *, judge: str) -> list[JudgedPair]:
    """The verdicts of a `result.json`; of several stages the last one counts.

    Args:
        path: The file.
        judge: Name of the judge, which the file does not say.

    Raises:
        DataError: A row lacks a field, or a winner is not "1", "2", "None" or null.
    """
    found, once = [], Once()
    for row in rows_of(path):
        pair, stages = _pair(row), field(row, "results")
        once.see(row, f"pair {pair.prompt.id}, {pair.one.id}, {pair.two.id}")
        if not isinstance(stages, list) or not stages or not isinstance(stages[-1], dict):
            raise DataError(
                f"{row.where}: results must be a list of stages with at least one, got "
                f"{show(stages)}"
            )
        shown = Comparison(prompt_id=pair.prompt.id, first=pair.one.id, second=pair.two.id)
        original, swapped = (
            _judgment(comparison, stages[-1], order, answer, judge, row.where)
            for comparison, order, answer in (
                (shown, _ORDERS[0], 1),
                (shown.swapped(), _ORDERS[1], 2),
            )
        )
        found.append(JudgedPair(pair, original, swapped))
    return found


def write_results(path: Path, judged: Sequence[JudgedPair]) -> None:
    """Write verdicts as LLMBar's `result.json`, one stage each.

    Raises:
        DataError: A judgment is of other answers than its pair's, is a tie, which this file cannot
            hold, or as for `write_instances`.
    """
    rows = []
    for number, (pair, original, swapped) in enumerate(judged):
        stage: dict[str, Any] = {}
        for order, judgment, first in zip(
            _ORDERS, (original, swapped), (pair.one, pair.two), strict=True
        ):
            if judgment.comparison.first != first.id or {
                judgment.comparison.first,
                judgment.comparison.second,
            } != {
                pair.one.id,
                pair.two.id,
            }:
                raise DataError(
                    f"pair {number}, {order}: the judgment is of other answers, or in the other "
                    "order"
                )
            p_one = p_answer_one(pair, judgment)
            if p_one == 0.5:
                raise DataError(
                    f"pair {number}, {order}: a tie; LLMBar's results name a winner, leave the "
                    "pair out"
                )
            winner = "None" if p_one is None else "1" if p_one > 0.5 else "2"
            stage[order] = {"completion": [judgment.raw_text or "", ""], "winner": winner}
        rows.append(_instance(pair) | {"results": [stage]})
    write_list(path, rows)


def read_verdict_table(path: Path) -> dict[tuple[str, str, str], LabelledVerdicts]:
    """Verdicts by (dataset, judge, strategy), columns that may be missing; the names are empty then.

    `label` is 1 or 2, `winner_orig` and `winner_swap` are 1, 2, or 0 for no verdict.

    Raises:
        DataError: A row lacks a field, or a label or winner is something else.
    """
    found: dict[tuple[str, str, str], LabelledVerdicts] = {}
    once = Once()
    for row in rows_of(path):
        dataset, judge, strategy = (
            str(row.values.get(name) or "") for name in ("dataset", "judge", "strategy")
        )
        if "index" in row.values:
            once.see(row, f"pair {', '.join([dataset, judge, strategy, text_field(row, 'index')])}")
        entry = found.setdefault((dataset, judge, strategy), LabelledVerdicts([], [], []))
        entry.labels.append(_number_of(row, "label", (1, 2)))
        entry.p_one.append(_P_ONE[_number_of(row, "winner_orig", (0, 1, 2))])
        entry.p_one_swapped.append(_P_ONE[_number_of(row, "winner_swap", (0, 1, 2))])
    return found


def p_answer_one(pair: LabelledPair, judgment: Judgment) -> float | None:
    """P(answer 1 is better) of a judgment in whichever order it was asked."""
    if judgment.p_first is None:
        return None
    return judgment.p_first if judgment.comparison.first == pair.one.id else 1 - judgment.p_first


def verdicts_of(judged: Sequence[JudgedPair]) -> LabelledVerdicts:
    """Labels and verdicts as the metrics of labelled pairs take them."""
    return LabelledVerdicts(
        [pair.label for pair, _, _ in judged],
        [p_answer_one(pair, original) for pair, original, _ in judged],
        [p_answer_one(pair, swapped) for pair, _, swapped in judged],
    )


def _number_of(row: SourceRow, name: str, allowed: tuple[int, ...]) -> int:
    value = field(row, name)
    if isinstance(value, bool) or str(value) not in map(str, allowed):
        raise DataError(
            f"{row.where}: {name} must be one of {', '.join(map(str, allowed))}; got {show(value)}"
        )
    return int(value)


def _pair(row: SourceRow) -> LabelledPair:
    label = field(row, "label")
    if str(label) not in ("1", "2") or isinstance(label, bool):
        raise DataError(f"{row.where}: label must be 1 or 2, the better output; got {show(label)}")
    prompt = Prompt.from_text(text_field(row, "input", "instruction"), source=row.where)
    return LabelledPair(
        prompt=prompt,
        one=answer_to(prompt, 0, text_field(row, "output_1")),
        two=answer_to(prompt, 1, text_field(row, "output_2")),
        label=1 if str(label) == "1" else 2,
        subset=str(row.values.get("subset") or ""),
        metadata=rest(row.values, *_OWN),
    )


def _instance(pair: LabelledPair) -> dict[str, Any]:
    if len(pair.prompt.messages) != 1:
        raise DataError(
            f"prompt {pair.prompt.id}: {len(pair.prompt.messages)} turns; LLMBar's files hold one "
            "instruction"
        )
    own: dict[str, Any] = {
        "input": pair.prompt.text,
        "output_1": pair.one.text,
        "output_2": pair.two.text,
    }
    return (
        pair.metadata
        | ({"subset": pair.subset} if pair.subset else {})
        | own
        | {"label": pair.label}
    )


def _judgment(
    comparison: Comparison,
    stage: dict[str, Any],
    order: str,
    first_answer: int,
    judge: str,
    where: str,
) -> Judgment:
    game = stage.get(order)
    if not isinstance(game, dict) or "winner" not in game:
        raise DataError(
            f"{where}: the last of results needs {order!r} with a winner, got {show(game)}"
        )
    winner, completion = game["winner"], game.get("completion")
    text = completion[0] if isinstance(completion, list) and completion else completion
    raw = text if isinstance(text, str) else None
    if winner is None or winner == "None":
        return Judgment(comparison=comparison, judge=judge, raw_text=raw, error=NO_VERDICT)
    if str(winner) not in ("1", "2") or isinstance(winner, bool):
        raise DataError(
            f'{where}, {order}: winner must be "1", "2", "None" or null, got {show(winner)}'
        )
    return Judgment(
        comparison=comparison,
        judge=judge,
        raw_text=raw,
        p_first=1.0 if str(winner) == str(first_answer) else 0.0,
    )
