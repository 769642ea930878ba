"""Everything that a run knows of one prompt."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from prefine.records import (
    AnswerTokens,
    Completion,
    Judgment,
    LabelledCompletion,
    Message,
    PreferenceList,
    PreferencePair,
    Prompt,
    Ranking,
    Score,
)
from prefine.report.data import OUTCOMES, AnswerExample
from prefine.run.item_rows import label_of, list_of, pair_of
from prefine.run.rows import completion_of, joint_judgment_of, judgment_of, ranking_of
from prefine.run.tables import parse
from prefine.run.view import JOINT_JUDGMENTS, RunView
from prefine.stages.bridged import BRIDGED_PAIRS
from prefine.view.duels import ranked
from prefine.view.index import PromptIndex

_SHORT_ID = 8


class RankedAnswer(NamedTuple):
    """An answer with what became of it; `name` is its short name on the page."""

    name: str
    completion: Completion
    place: int | None
    score: float | None
    standard_error: float | None
    roles: tuple[str, ...]
    ratings: tuple[Score, ...]


class Contest(NamedTuple):
    """The answers before and after training, and what was said of them."""

    before: str
    after: str
    outcome: AnswerExample | None
    judgments: tuple[Judgment, ...]
    cut: tuple[bool, bool]
    names: Mapping[str, str]


class PromptRead(NamedTuple):
    """One prompt with all that is known of it; `across` are verdicts on it and another prompt."""

    facts: Mapping[str, Any]
    messages: tuple[Message, ...]
    answers: tuple[RankedAnswer, ...]
    ranking: Ranking | None
    judgments: tuple[Judgment, ...]
    across: tuple[Judgment, ...]
    pairs: tuple[tuple[str, PreferencePair], ...]
    lists: tuple[tuple[str, PreferenceList], ...]
    labels: tuple[tuple[str, LabelledCompletion], ...]
    contest: Contest | None
    tokens: tuple[AnswerTokens, ...]

    @property
    def names(self) -> dict[str, str]:
        """The short names of answers by id; of unknown ones, the beginning of the id."""
        ranked = self.ranking.completions if self.ranking else ()
        met = [id_ for one in self.judgments for id_ in _both(one)]
        known = {one.completion.id: one.name for one in self.answers}
        return {id_: id_[:_SHORT_ID] for id_ in (*ranked, *met)} | known

    @property
    def names_across(self) -> dict[str, str]:
        """The names of answers that were compared with those of other prompts."""
        met = [id_ for one in self.across for id_ in _both(one)]
        return {id_: id_[:_SHORT_ID] for id_ in met} | self.names


def read_prompt(index: PromptIndex, round_: int, prompt_id: str) -> PromptRead | None:
    """Read a prompt from the parts that have it; None where there is no such prompt.

    Raises:
        DataError: A row does not fit.
    """
    found = index.database.dicts(
        "SELECT * FROM facts WHERE round = ? AND prompt_id = ?", [round_, prompt_id]
    )
    folders = [path for number, path in index.folders if number == round_]
    if not found or not folders:
        return None

    def rows(table: str) -> list[dict[str, Any]]:
        return index.rows_of(table, round_, prompt_id)

    answered = [completion_of(row) for row in rows("completions")]
    said = [judgment_of(row) for row in rows("judgments")]
    rankings = [ranking_of(row) for row in rows("rankings")]
    ranking = rankings[0] if rankings else None
    pairs = _items(rows, "pairs", pair_of, BRIDGED_PAIRS)
    lists = _items(rows, "lists", list_of)
    labels = _items(rows, "labels", label_of)
    contest, evaluated = _contest(rows, found[0], folders[0])
    tokens = [one for one in RunView(folders[0]).token_logps() if one.prompt_id == prompt_id]
    completions = [completion for _, completion in answered] or _of_items(pairs, lists, labels)
    prompt = next(
        (one for one, _ in answered),
        next((item.prompt for _, item in (*pairs, *lists, *labels)), evaluated),
    )
    messages = prompt.messages if prompt else (Message(role="user", content=found[0]["shown"]),)
    ratings = [one for one in said if isinstance(one, Score)]
    judgments = tuple(one for one in said if isinstance(one, Judgment))
    return PromptRead(
        facts=found[0],
        messages=messages,
        answers=_ranked(completions, ranking, _roles(pairs, lists, labels), ratings),
        ranking=ranking,
        judgments=judgments,
        across=tuple(joint_judgment_of(row) for row in rows(JOINT_JUDGMENTS)),
        pairs=pairs,
        lists=lists,
        labels=labels,
        contest=contest,
        tokens=tuple(tokens),
    )


def _items(rows: Any, name: str, of: Any, *others: str) -> tuple[tuple[str, Any], ...]:
    """The items of a prompt, each with the table that it stands in."""
    tables = (name, *others, f"heldout_{name}")
    return tuple((table, of(row)) for table in tables for row in rows(table))


def _of_items(
    pairs: Sequence[tuple[str, PreferencePair]],
    lists: Sequence[tuple[str, PreferenceList]],
    labels: Sequence[tuple[str, LabelledCompletion]],
) -> list[Completion]:
    """The answers of items, each once, for a run that begins with items."""
    found = [one for _, pair in pairs for one in (pair.chosen, pair.rejected)]
    found += [one for _, item in lists for one in item.completions]
    found += [item.completion for _, item in labels]
    return list({one.id: one for one in found}.values())


def _roles(
    pairs: Sequence[tuple[str, PreferencePair]],
    lists: Sequence[tuple[str, PreferenceList]],
    labels: Sequence[tuple[str, LabelledCompletion]],
) -> dict[str, list[str]]:
    """The roles of answers in the items that were made, by id."""
    roles: dict[str, list[str]] = {}
    for _, pair in pairs:
        for name, one in (("chosen", pair.chosen), ("rejected", pair.rejected)):
            roles.setdefault(one.id, []).append(name)
    for _, item in lists:
        for place, one in enumerate(item.completions, 1):
            roles.setdefault(one.id, []).append(f"{place} in the list")
    for _, label in labels:
        name = "good" if label.desirable else "bad"
        roles.setdefault(label.completion.id, []).append(name)
    return roles


def _ranked(
    completions: Sequence[Completion],
    ranking: Ranking | None,
    roles: Mapping[str, Sequence[str]],
    ratings: Sequence[Score],
) -> tuple[RankedAnswer, ...]:
    """All answers, best first as far as the ranking tells, with short names in this order."""
    places: dict[str, int] = {}
    scores: dict[str, float] = {}
    errors: dict[str, float] = {}
    shown: dict[str, int] = {}
    if ranking is not None:
        ids = ranking.completions
        scores = dict(zip(ids, ranking.scores or (), strict=False))
        errors = dict(zip(ids, ranking.standard_errors or (), strict=False))
        order = ranking.order or (ranking.champion and (ranking.champion,)) or ()
        places = {id_: place for place, id_ in enumerate(order, 1)}
        shown = {id_: place for place, id_ in enumerate(ranked(ranking))}
    last = len(shown)
    ordered = sorted(completions, key=lambda one: (shown.get(one.id, last), one.sample_index))
    return tuple(
        RankedAnswer(
            name=_letters(number),
            completion=one,
            place=places.get(one.id),
            score=scores.get(one.id),
            standard_error=errors.get(one.id),
            roles=tuple(roles.get(one.id, ())),
            ratings=tuple(each for each in ratings if each.completion_id == one.id),
        )
        for number, one in enumerate(ordered)
    )


def _letters(number: int) -> str:
    """A, B, …, Z, AA, AB, …: no number, which would read as a rank."""
    rest, last = divmod(number, 26)
    return (_letters(rest - 1) if rest else "") + chr(ord("A") + last)


def _contest(
    rows: Any, facts: Mapping[str, Any], folder: Path
) -> tuple[Contest | None, Prompt | None]:
    """The answers before and after training, and the prompt that both answer."""
    before, after = (
        [completion_of(row) for row in rows(f"evaluation/{name}")]
        for name in ("baseline", "trained")
    )
    outcome = _outcome(folder, facts["start"], facts["prompt_id"])
    said = [judgment_of(row) for row in rows("evaluation/judgments")]
    prompt = next((one for one, _ in (*after, *before)), None)
    if outcome is None and not (before and after):
        return None, prompt
    texts = (outcome.before, outcome.after) if outcome else (before[0][1].text, after[0][1].text)
    judgments = tuple(one for one in said if isinstance(one, Judgment))
    names = {id_: id_[:_SHORT_ID] for one in judgments for id_ in _both(one)}
    names |= {one.id: "after" for _, one in after} | {one.id: "before" for _, one in before}
    cut = tuple(any(one.finish_reason == "length" for _, one in side) for side in (before, after))
    return Contest(*texts, outcome, judgments, (cut[0], cut[1]), names), prompt


def _both(one: Judgment) -> tuple[str, str]:
    return one.comparison.first, one.comparison.second


def _outcome(folder: Path, start: int | None, prompt_id: str) -> AnswerExample | None:
    """The line of the outcomes that begins at a byte, if it is still that of this prompt."""
    if start is None:
        return None
    try:
        with (folder / OUTCOMES).open("rb") as file:
            file.seek(start)
            line = file.readline()
    except FileNotFoundError:
        return None
    try:
        row = json.loads(line)
    except ValueError:
        return None
    if not isinstance(row, dict) or row.get("prompt_id") != prompt_id:
        return None
    return parse(AnswerExample, row, where=str(folder / OUTCOMES))
