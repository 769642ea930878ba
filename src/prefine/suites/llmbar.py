"""LLMBar: pairs with a label, and a judge's verdicts on them in both orders."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import Field, JsonValue

from prefine.data.layouts.protocol import SourceRow, rest, show
from prefine.errors import DataError
from prefine.metrics.judges.verdicts import labelled_accuracy
from prefine.records import Comparison, Completion, Judgment, PreferencePair, Prompt, Record
from prefine.suites.figures import Figures, habits
from prefine.suites.reading import (
    Once,
    answer_to,
    choice_field,
    list_field,
    name_field,
    one_turn,
    rows_of,
    text_field,
    write_list,
)

_OWN = ("input", "instruction", "output_1", "output_2", "label", "subset", "results")
_ORDERS = ("swap = False", "swap = True")
NO_VERDICT = "no verdict"
_LABELS: dict[str, Literal[1, 2]] = {"1": 1, "2": 2}
_P_ONE = {"0": None, "1": 1.0, "2": 0.0}
_WINNERS = {"None": None, "1": 1, "2": 2}


class LabelledPair(Record):
    """Two answers to one prompt, and the better one; `subset` is empty in LLMBar's own files."""

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
    """A pair with a judge's answers, with answer 1 shown first, and swapped."""

    pair: LabelledPair
    original: Judgment
    swapped: Judgment


class LabelledVerdicts(NamedTuple):
    """Labels [n], and P(answer 1 is better) in each order [n]; None for no verdict."""

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
        pair = _pair(row)
        once.see(row, f"pair {pair.prompt.id}, {pair.one.id}, {pair.two.id}")
        last = row._replace(values=list_field(row, "results", dict, of="stages")[-1])
        shown = Comparison(prompt_id=pair.prompt.id, first=pair.one.id, second=pair.two.id)
        original = _judgment(shown, last, _ORDERS[0], 1, judge)
        swapped = _judgment(shown.swapped(), last, _ORDERS[1], 2, judge)
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
            shown = judgment.comparison
            if shown.first != first.id or {shown.first, shown.second} != {pair.one.id, pair.two.id}:
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
    """Verdicts by (dataset, judge, strategy), names that are empty where a column is missing.

    `label` is 1 or 2, `winner_orig` and `winner_swap` are 1, 2, or 0 for no verdict.

    Raises:
        DataError: A row lacks a field, or a label or winner is something else.
    """
    found: dict[tuple[str, str, str], LabelledVerdicts] = {}
    once = Once()
    for row in rows_of(path):
        dataset, judge, strategy = (
            name_field(row, name) for name in ("dataset", "judge", "strategy")
        )
        if "index" in row.values:
            once.see(row, f"pair {', '.join([dataset, judge, strategy, text_field(row, 'index')])}")
        entry = found.setdefault((dataset, judge, strategy), LabelledVerdicts([], [], []))
        entry.labels.append(choice_field(row, "label", _LABELS))
        entry.p_one.append(choice_field(row, "winner_orig", _P_ONE))
        entry.p_one_swapped.append(choice_field(row, "winner_swap", _P_ONE))
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


def _pair(row: SourceRow) -> LabelledPair:
    prompt = Prompt.from_text(text_field(row, "input", "instruction"), source=row.where)
    return LabelledPair(
        prompt=prompt,
        one=answer_to(prompt, 0, text_field(row, "output_1")),
        two=answer_to(prompt, 1, text_field(row, "output_2")),
        label=choice_field(row, "label", _LABELS),
        subset=name_field(row, "subset"),
        metadata=rest(row.values, *_OWN),
    )


def _instance(pair: LabelledPair) -> dict[str, Any]:
    return pair.metadata | {
        **({"subset": pair.subset} if pair.subset else {}),
        "input": one_turn(pair.prompt, "LLMBar"),
        "output_1": pair.one.text,
        "output_2": pair.two.text,
        "label": pair.label,
    }


def _judgment(
    comparison: Comparison, row: SourceRow, order: str, first_answer: int, judge: str
) -> Judgment:
    """The judgment of one order, of a row that is the last stage of the results."""
    game = row.values.get(order)
    if not isinstance(game, dict) or "winner" not in game:
        raise DataError(
            f"{row.where}: the last of results needs {order!r} with a winner, got {show(game)}"
        )
    winner = choice_field(SourceRow(f"{row.where}, {order}", game), "winner", _WINNERS)
    completion = game.get("completion")
    text = completion[0] if isinstance(completion, list) and completion else completion
    return Judgment(
        comparison=comparison,
        judge=judge,
        raw_text=text if isinstance(text, str) else None,
        p_first=None if winner is None else float(winner == first_answer),
        error=NO_VERDICT if winner is None else None,
    )


def figures(path: Path) -> Iterator[Figures]:
    """The figures of the judge of a result.json."""
    yield _labelled("judge", verdicts_of(read_results(path, judge="")))


def table_figures(path: Path) -> Iterator[Figures]:
    """The figures of a table of verdicts, by judge, strategy and data set."""
    for (dataset, judge, strategy), rows in read_verdict_table(path).items():
        yield _labelled(", ".join(filter(None, (judge, strategy, dataset))) or "judge", rows)


def _labelled(of: str, rows: LabelledVerdicts) -> Figures:
    accuracy = labelled_accuracy(rows.labels, rows.p_one, rows.p_one_swapped)
    found = habits(of, rows.p_one, rows.p_one_swapped)
    return found._replace(metrics=(*accuracy, *found.metrics))
