"""Facts about a user's data and model that decide what a first configuration says."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import Any, Literal, NamedTuple

from prefine.config.base import Component
from prefine.config.components import in_full, is_module_attribute
from prefine.data import entries
from prefine.data.import_report import ImportReport
from prefine.data.layouts.protocol import SourceRow
from prefine.data.pair_rows import STORED_PAIR
from prefine.data.sources import read
from prefine.errors import ConfigError, DataError, PrefineError
from prefine.judges.recorded import RecordedJudge
from prefine.records import Completion, PreferencePair, Prompt

Entry = Literal["pairs", "completions", "prompts"]
_MOST_ROWS, _MOST_MEASURED = 20_000, 1_000
Answered = tuple[Prompt, list[Completion]]


@dataclass(frozen=True)
class DataFacts:
    """The content of a file, as far as it was read.

    Args:
        entry: The key of the configuration that takes it.
        source: The file, as a component.
        layout: The name of the layout.
        count: Pairs or prompts that can be used, of the rows that were read.
        whole: False if there are more rows than were read.
        most_answers: Completions of the prompt that has most; 0 without any.
        graded: True if every completion has a recorded grade.
        notes: What was set aside.
        sample: Some of them, with their answers.
    """

    entry: Entry
    source: Component
    layout: str
    count: int
    whole: bool
    most_answers: int
    graded: bool
    notes: tuple[str, ...]
    sample: list[Answered] = field(repr=False)


class ModelFacts(NamedTuple):
    """Facts from a policy's folder, and the data's longest texts in its tokens; None if unknown."""

    half_precision: bool
    has_template: bool
    positions: int | None
    prompt_tokens: int | None
    completion_tokens: int | None


def data_facts(data: str) -> DataFacts:
    """Read the beginning of a file, or of a data set of the hub.

    Raises:
        ConfigError: There is no such file, or its rows are of a kind that no entry takes.
        DataError: A row is malformed.
    """
    source = Component.model_validate(in_full("source", data))
    rows = read(source, where="DATA")
    first = next(rows, None)
    if first is None:
        raise DataError(f"{data}: there are no rows")
    entry = _entry_of(first)
    report = ImportReport()
    taken = islice(chain([first], rows), _MOST_ROWS)
    answered = list(_answered(entry, taken, report))
    return DataFacts(
        entry=entry,
        source=source,
        layout=first.layout,
        count=len(answered),
        whole=next(rows, None) is None,
        most_answers=max(len(answers) for _, answers in answered),
        graded=entry == "completions" and _are_graded(answered),
        notes=tuple(report.notes()),
        sample=answered[:_MOST_MEASURED],
    )


def model_facts(path: str, sample: Iterable[Answered]) -> ModelFacts:
    """Read a policy's configuration and tokenizer, and measure the data with it; no weights.

    Raises:
        ConfigError: It is no model that can be trained.
        BackendError: There is no such model.
    """
    from prefine.models.hf.architecture import check_trainable, load_config
    from prefine.models.hf.loading import NO_TEMPLATE, load_positions, load_tokenizer
    from prefine.models.playground import NAME, playground_folder

    if path == NAME:
        path = str(playground_folder())
    check_trainable(path)
    config = load_config(path)
    stored = str(getattr(config, "dtype", None) or getattr(config, "torch_dtype", None))
    has_template = True
    try:
        tokenizer = load_tokenizer(path)
    except ConfigError:
        has_template, tokenizer = False, load_tokenizer(path, NO_TEMPLATE)
    lengths = list(_lengths(tokenizer, sample))
    return ModelFacts(
        half_precision="16" in stored,
        has_template=has_template,
        positions=load_positions(path),
        prompt_tokens=max((prompt for prompt, _ in lengths), default=None),
        completion_tokens=max((answer for _, answer in lengths), default=0) or None,
    )


def reward_positions(reward: str) -> int | None:
    """Return the tokens that a reward model reads; None for a function, and where it is not said.

    Raises:
        BackendError: There is no such model.
    """
    from prefine.models.hf.architecture import load_config

    if is_module_attribute(reward):
        return None
    config = load_config(reward).get_text_config()
    found: int | None = getattr(config, "max_position_embeddings", None)
    return found


def _entry_of(row: SourceRow) -> Entry:
    columns = row.values.keys()
    answers = row.values.get("completions")
    first = answers[0] if isinstance(answers, list) and answers else None
    if isinstance(first, dict) and isinstance(first.get("label"), bool):
        raise ConfigError(
            f"{row.where}: this row is a labelled answer (column label); write the configuration "
            "with labels: and train.loss: kto, as docs/data.md shows"
        )
    if STORED_PAIR in columns or "chosen" in columns:
        return "pairs"
    return "completions" if "completions" in columns else "prompts"


def _answered(entry: Entry, rows: Iterator[SourceRow], report: ImportReport) -> Iterator[Answered]:
    if entry == "pairs":
        yield from map(_both_sides, entries.pairs(rows, report))
    elif entry == "completions":
        yield from entries.completions(rows, report)
    else:
        yield from ((prompt, []) for prompt in entries.prompts(rows, report))


def _both_sides(pair: PreferencePair) -> Answered:
    return pair.prompt, [pair.chosen, pair.rejected]


def _are_graded(answered: Iterable[Answered]) -> bool:
    judge = RecordedJudge()
    try:
        for prompt, completions in answered:
            judge.check(prompt, completions)
    except DataError:
        return False
    return True


def _lengths(tokenizer: Any, sample: Iterable[Answered]) -> Iterator[tuple[int, int]]:
    """Yield the tokens of each prompt and of its longest answer."""
    from prefine.chat import prompt_ids, stop_token_id, tokenizer_hash
    from prefine.turns import answer_ids

    hash_, stop = tokenizer_hash(tokenizer), stop_token_id(tokenizer)
    for prompt, completions in sample:
        try:
            answers = [
                answer_ids(tokenizer, prompt, one, tokenizer_hash=hash_, stop_token_id=stop)
                for one in completions
            ]
            yield (
                len(prompt_ids(tokenizer, prompt)),
                max((len(one.ids) for one in answers if one), default=0),
            )
        except PrefineError:
            # A prompt that the template refuses is set aside by the run, too.
            continue
