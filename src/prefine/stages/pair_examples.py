"""The training items that the report of a run without judged answers shows, by a fixed rule."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from prefine.records import content_hash
from prefine.report.data import LabelExample, ListedAnswer, ListExample, PairExample
from prefine.report.examples import RANDOM, take_turns
from prefine.run.item_rows import label_of, list_of, pair_of
from prefine.run.tables import column, existing_parts, read_part

LARGEST, SMALLEST = "largest gap", "smallest gap"
_IDS = ("prefine_prompt_id", "prefine_chosen_id", "prefine_rejected_id")
_LABEL_IDS = ("prefine_prompt_id", "prefine_completion_id")
_LIST_ANSWERS = 4
_GAP, _CHANCE = "prefine_score_gap", "prefine_p_chosen"


@dataclass(frozen=True)
class _Place:
    """An item's place in its table, and by how much its best is better as far as that is stored."""

    part: Path
    row: int
    order: str
    strength: float | None


def pair_examples(table: Path, count: int) -> tuple[PairExample, ...]:
    """Return `count` pairs of a table with the reason of each, the reasons taking turns.

    A pair's gap is that of its scores, or if no pair has one the judge's P(chosen is better).
    Random is the order of a hash of the ids, so the same pairs give the same examples. Only the
    rows shown are read whole.
    """
    parts = existing_parts(table)
    by_gap = any(gap is not None for part in parts for gap in column(part, _GAP))
    known = _GAP if by_gap else _CHANCE
    places = [place for part in parts for place in _places(part, known)]
    return tuple(_example(place, why) for place, why in _choose(places, count))


def list_examples(table: Path, count: int) -> tuple[ListExample, ...]:
    """Return `count` lists of a table with the reason of each, the reasons taking turns.

    A list's gap is its best score minus its worst; lists with ranks are taken at random. Of a long
    list, the first and the last answers are shown. Only the rows shown are read whole.
    """
    places = []
    for part in existing_parts(table):
        columns = [column(part, name) for name in ("prefine_completion_ids", "scores")]
        places += [
            _Place(part, row, content_hash(*ids), scores[0] - scores[-1] if scores else None)
            for row, (ids, scores) in enumerate(zip(*columns, strict=True))
        ]
    return tuple(_list_example(place, why) for place, why in _choose(places, count))


def label_examples(table: Path, count: int) -> tuple[LabelExample, ...]:
    """Return `count` labelled answers of a table, good and bad ones taking turns.

    Their order is that of a hash of the ids; only the rows shown are read whole.
    """
    found: list[tuple[str, Path, int, bool]] = []
    for part in existing_parts(table):
        columns = (column(part, name) for name in (*_LABEL_IDS, "label"))
        for row, (prompt, completion, good) in enumerate(zip(*columns, strict=True)):
            found.append((content_hash(prompt, completion), part, row, good))
    found.sort()
    queues = {"good": [one for one in found if one[3]], "bad": [one for one in found if not one[3]]}
    shown = []
    for (_, part, row, good), _ in take_turns(queues, count, key=lambda one: one[0]):
        record = label_of(read_part(part)[row])
        shown.append(
            LabelExample(prompt=record.prompt.text, answer=record.completion.text, desirable=good)
        )
    return tuple(shown)


def _places(part: Path, known: str) -> list[_Place]:
    ids = zip(*(column(part, name) for name in _IDS), strict=True)
    return [
        _Place(part, row, content_hash(*found), strength)
        for row, (found, strength) in enumerate(zip(ids, column(part, known), strict=True))
    ]


def _choose(places: Sequence[_Place], count: int) -> list[tuple[_Place, str]]:
    by_hash = sorted(places, key=lambda place: place.order)
    known = [place for place in by_hash if place.strength is not None]
    rising = sorted(known, key=lambda place: place.strength or 0.0)
    falling = sorted(known, key=lambda place: -(place.strength or 0.0))
    # Pairs that are all as clear as each other have no largest gap.
    told_apart = bool(rising) and rising[0].strength != rising[-1].strength
    queues = {LARGEST: falling, SMALLEST: rising} if told_apart else {}
    queues[RANDOM] = by_hash
    return take_turns(queues, count, key=lambda place: place.order)


def _example(place: _Place, why: str) -> PairExample:
    pair = pair_of(read_part(place.part)[place.row])
    return PairExample(
        prompt=pair.prompt.text,
        chosen=pair.chosen.text,
        rejected=pair.rejected.text,
        p_chosen=pair.p_chosen,
        gap=pair.score_gap,
        why=why,
    )


def _list_example(place: _Place, why: str) -> ListExample:
    found = list_of(read_part(place.part)[place.row])
    size = len(found.completions)
    first = _LIST_ANSWERS // 2
    shown = [at for at in range(size) if at < first or at >= size - (_LIST_ANSWERS - first)]
    return ListExample(
        prompt=found.prompt.text,
        answers=tuple(
            ListedAnswer(
                place=at,
                text=found.completions[at].text,
                score=found.scores[at] if found.scores else None,
                rank=found.ranks[at] if found.ranks else None,
            )
            for at in shown
        ),
        size=size,
        gap=place.strength,
        why=why,
    )
