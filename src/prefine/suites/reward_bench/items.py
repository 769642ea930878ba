"""RewardBench instances: v1 with one right and one wrong answer, v2 with several of each."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import Field, JsonValue

from prefine.data.layouts.protocol import SourceRow, rest, show
from prefine.errors import DataError
from prefine.metrics.judges.reward_bench import TiesPrompts, ties_prompts
from prefine.records import Completion, PreferencePair, Prompt, Record
from prefine.suites.reading import (
    Once,
    answer_to,
    list_field,
    name_field,
    one_turn,
    rows_of,
    text_field,
    write_lines,
)

_V1: tuple[str, ...] = (
    "id",
    "prompt",
    "chosen",
    "rejected",
    "chosen_model",
    "rejected_model",
    "subset",
)
_V2: tuple[str, ...] = (
    "id",
    "prompt",
    "chosen",
    "rejected",
    "models",
    "subset",
    "num_correct",
    "num_incorrect",
    "total_completions",
)
TIES = "Ties"


class RewardBenchItem(Record):
    """A prompt and its answers, the `num_correct` right ones first."""

    id: str
    subset: str
    prompt: Prompt
    completions: tuple[Completion, ...] = Field(min_length=2)
    num_correct: int = Field(ge=1)
    metadata: dict[str, JsonValue] = Field(default_factory=dict)

    def preference(self) -> PreferencePair:
        """The first right answer against the first wrong one: all that an item of v1 has.

        Raises:
            ValueError: Both answers are the same text.
        """
        return PreferencePair(
            prompt=self.prompt,
            chosen=self.completions[0],
            rejected=self.completions[self.num_correct],
        )


class TiesScores(NamedTuple):
    """The prompts of the Ties subset for `ties_score`, in the order of their numbers."""

    reference: TiesPrompts
    tied: TiesPrompts


def read_items(path: Path) -> list[RewardBenchItem]:
    """The items of a file of either version: `chosen` is one text in v1, a list in v2.

    Raises:
        DataError: A field is missing or of another kind, numbers of answers contradict each other,
            or an id repeats.
    """
    once, items = Once(), []
    for row in rows_of(path):
        item = _item(row)
        once.see(row, f"id {item.id} of {item.subset}")
        items.append(item)
    return items


def write_items(path: Path, items: Sequence[RewardBenchItem], *, version: int) -> None:
    """Write items in the form of version 1 or 2, one JSON object a line.

    Raises:
        DataError: An item does not fit: v1 has two answers, and prompts of one user turn.
    """
    if version not in (1, 2):
        raise ValueError(f"version must be 1 or 2, got {version}")
    write_lines(path, [_row(item, version) for item in items])


def ties_of(items: Sequence[RewardBenchItem], scores: Mapping[str, float]) -> TiesScores:
    """The scores of the Ties subset, tied and reference prompts brought together by their number.

    Args:
        items: Of v2; those of other subsets are passed over. Ids are "ref:NUMBER" and
            "tied:NUMBER".
        scores: Score of each completion, by its id.

    Raises:
        DataError: A prompt lacks its other version, an id is of another form, or a completion has
            no score.
    """
    prompts = []
    for item in items:
        if item.subset.lower() != TIES.lower():
            continue
        lacking = [completion.id for completion in item.completions if completion.id not in scores]
        if lacking:
            raise DataError(
                f"item {item.id}: {len(lacking)} completions without a score, first {lacking[0]}"
            )
        prompts.append(
            (item.id, [scores[completion.id] for completion in item.completions], item.num_correct)
        )
    return paired_ties(prompts)


def paired_ties(prompts: Iterable[tuple[str, Sequence[float], int]]) -> TiesScores:
    """Tied and reference prompts brought together by their number.

    Args:
        prompts: Id ("ref:NUMBER" or "tied:NUMBER"), scores with the right answers first, and how
            many are right.

    Raises:
        DataError: A prompt lacks its other version or is there twice, or an id is of another form.
    """
    found: dict[str, dict[int, tuple[Sequence[float], int]]] = {"ref": {}, "tied": {}}
    for id_, values, count in prompts:
        kind, _, number = id_.partition(":")
        if kind not in found or not number.isdigit():
            raise DataError(f"id {id_!r} of the Ties subset must be ref:NUMBER or tied:NUMBER")
        if int(number) in found[kind]:
            raise DataError(f"id {id_!r} of the Ties subset is there twice; keep one")
        found[kind][int(number)] = (values, count)
    alone = found["ref"].keys() ^ found["tied"].keys()
    if alone or not found["ref"]:
        raise DataError(
            f"{len(alone)} prompts of the Ties subset lack their other version, such as number "
            f"{min(alone, default='(there is no prompt at all)')}; read all of the subset"
        )
    sides = [[found[kind][number] for number in sorted(found[kind])] for kind in ("ref", "tied")]
    reference, tied = (
        ties_prompts([values for values, _ in side], [count for _, count in side]) for side in sides
    )
    return TiesScores(reference, tied)


def _item(row: SourceRow) -> RewardBenchItem:
    prompt = Prompt.from_text(text_field(row, "prompt"), source=row.where)
    if isinstance(row.values.get("chosen"), list):
        columns, num_correct, texts, models = _V2, *_answers_2(row)
    else:
        sides = ("chosen", "rejected")
        columns, num_correct = _V1, 1
        texts = [text_field(row, side) for side in sides]
        models = [name_field(row, f"{side}_model") for side in sides]
    answers = zip(texts, models, strict=True)
    return RewardBenchItem(
        id=text_field(row, "id"),
        subset=text_field(row, "subset"),
        prompt=prompt,
        completions=tuple(
            answer_to(prompt, index, text, model) for index, (text, model) in enumerate(answers)
        ),
        num_correct=num_correct,
        metadata=rest(row.values, *columns),
    )


def _answers_2(row: SourceRow) -> tuple[int, list[str], list[str]]:
    """The number of right answers of a row of v2, all texts, right ones first, and their models."""
    chosen = list_field(row, "chosen", str, of="texts")
    rejected = list_field(row, "rejected", str, of="texts")
    texts = chosen + rejected
    for name, size in (
        ("num_correct", len(chosen)),
        ("num_incorrect", len(rejected)),
        ("total_completions", len(texts)),
    ):
        if row.values.get(name, size) != size:
            raise DataError(
                f"{row.where}: {name} is {show(row.values[name])}, but there are {size}"
            )
    models = row.values.get("models") or [""]
    if not isinstance(models, list) or len(models) not in (1, len(texts)):
        raise DataError(
            f"{row.where}: models must be one name, or one for each answer; got {show(models)}"
        )
    names = [str(name) for name in models]
    return len(chosen), texts, names * len(texts) if len(names) == 1 else names


def _row(item: RewardBenchItem, version: int) -> dict[str, Any]:
    fields: dict[str, Any] = item.metadata | {
        "id": item.id,
        "prompt": one_turn(item.prompt, "RewardBench"),
    }
    right, wrong = item.completions[: item.num_correct], item.completions[item.num_correct :]
    if version == 1:
        if len(item.completions) != 2 or item.num_correct != 1:
            raise DataError(
                f"item {item.id}: {len(item.completions)} answers; version 1 has one right and "
                "one wrong"
            )
        sides = {"chosen": right[0].text, "chosen_model": right[0].model}
        return (
            fields
            | sides
            | {"rejected": wrong[0].text, "rejected_model": wrong[0].model, "subset": item.subset}
        )
    return fields | {
        "chosen": [answer.text for answer in right],
        "rejected": [answer.text for answer in wrong],
        "num_correct": len(right),
        "num_incorrect": len(wrong),
        "total_completions": len(item.completions),
        "models": [answer.model for answer in item.completions],
        "subset": item.subset,
    }
