"""AlpacaEval's files: `annotations.json` and `model_outputs.json`, to and from our records."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from pydantic import Field, JsonValue

from prefine.data.layouts.protocol import SourceRow, rest, show
from prefine.errors import DataError
from prefine.records import Comparison, Completion, Judgment, Prompt, Record
from prefine.suites.reading import (
    Once,
    answer_to,
    field,
    name_field,
    number_field,
    one_turn,
    rows_of,
    text_field,
    write_list,
)

NO_ANNOTATION = "no annotation"
_ANNOTATION_COLUMNS = (
    "instruction",
    "output_1",
    "generator_1",
    "output_2",
    "generator_2",
    "annotator",
    "preference",
)
_OUTPUT_COLUMNS = ("instruction", "output", "generator")


class AlpacaAnnotation(Record):
    """One instruction with the baseline's answer, the model's, and what the judge said.

    The judgment names the baseline first, as the file does; in which order the judge saw them it
    does not say.
    """

    prompt: Prompt
    baseline: Completion
    model: Completion
    judgment: Judgment
    metadata: dict[str, JsonValue] = Field(default_factory=dict)

    @property
    def preference(self) -> float | None:
        """P(the model is better); None for no annotation."""
        return None if self.judgment.p_first is None else 1 - self.judgment.p_first


class AlpacaRows(NamedTuple):
    """Rows for `length_controlled_win_rate` [n].

    A preference is P(the model is better), None for no annotation.
    """

    preferences: list[float | None]
    model_lengths: list[int]
    baseline_lengths: list[int]
    ids: list[int | str]


Outputs = Mapping[str, Completion]
"""A model's answers by instruction."""


def read_annotations(
    path: Path, *, outputs: Outputs | None = None, baseline_outputs: Outputs | None = None
) -> list[AlpacaAnnotation]:
    """The rows of an `annotations.json` of one model against one baseline by one judge.

    Args:
        path: The file.
        outputs: The model's answers, for rows that lack them; None: every row has its own.
        baseline_outputs: The same of the baseline.

    Raises:
        DataError: A field is missing, a preference is none, an instruction is there twice, an
            answer is not the one of the outputs, or there are several models, baselines or judges;
            the message has the row.
    """
    found, once = [], Once()
    for row in rows_of(path):
        one = _annotation(row, outputs, baseline_outputs)
        once.see(row, f"the instruction {show(one.prompt.text)} (prompt {one.prompt.id})")
        once.share(row, "generator_1 (the baseline)", one.baseline.model)
        once.share(row, "generator_2 (the model)", one.model.model)
        once.share(row, "annotator", one.judgment.judge)
        found.append(one)
    return found


def write_annotations(path: Path, annotations: Sequence[AlpacaAnnotation]) -> None:
    """Write an `annotations.json`, preferences in [1, 2] with 2 for the model, null for none.

    Raises:
        DataError: A judgment is of other answers than those beside it, or a prompt is not a single
            user turn.
    """
    rows = []
    for place, one in enumerate(annotations):
        shown = one.judgment.comparison
        if (shown.first, shown.second) != (one.baseline.id, one.model.id):
            raise DataError(
                f"annotation {place}: the judgment is not of the baseline's answer, then the "
                "model's"
            )
        p_first = one.judgment.p_first
        # What the metadata keep are columns of the file; ours come last, and win.
        rows.append(
            one.metadata
            | {
                "instruction": one_turn(one.prompt, "AlpacaEval"),
                "output_1": one.baseline.text,
                "generator_1": one.baseline.model,
                "output_2": one.model.text,
                "generator_2": one.model.model,
                "annotator": one.judgment.judge,
                "preference": None if p_first is None else 2 - p_first,
            }
        )
    write_list(path, rows)


def rows_for_length_control(
    annotations: Sequence[AlpacaAnnotation], *, instructions: Sequence[str] | None = None
) -> AlpacaRows:
    """Preferences, lengths in characters and instructions of annotations.

    Args:
        annotations: Of one model.
        instructions: All instructions of the benchmark in its order, such as those of the
            baseline's outputs; an instruction's id is its place there, as a calibration counts.
            None: the ids are those of the prompts.

    Raises:
        DataError: An instruction is not among them, or one of them is there twice.
    """
    ids: list[int | str] = [one.prompt.id for one in annotations]
    if instructions is not None:
        places = {text: place for place, text in enumerate(instructions)}
        if len(places) < len(instructions):
            twice = next(text for place, text in enumerate(instructions) if places[text] != place)
            raise DataError(
                f"the instruction {show(twice)} is there twice among {len(instructions)}; keep one"
            )
        strange = [one for one in annotations if one.prompt.text not in places]
        if strange:
            raise DataError(
                f"{strange[0].prompt.source}: {show(strange[0].prompt.text)} is not among the "
                f"{len(instructions)} "
                f"instructions ({len(strange)} rows like this); give the benchmark that was "
                "annotated"
            )
        ids = [places[one.prompt.text] for one in annotations]
    return AlpacaRows(
        preferences=[one.preference for one in annotations],
        model_lengths=[len(one.model.text) for one in annotations],
        baseline_lengths=[len(one.baseline.text) for one in annotations],
        ids=ids,
    )


def read_annotation_table(path: Path) -> dict[str, AlpacaRows]:
    """The rows of each model in a table of lengths and preferences.

    Its columns are `model`, `instruction_id`, `len_model`, `len_baseline` and `preference`.

    Raises:
        DataError: A column is missing or not what it should be, or a model has an instruction
            twice.
    """
    found: dict[str, AlpacaRows] = {}
    once = Once()
    for row in rows_of(path):
        model = text_field(row, "model")
        id_, length, baseline = (
            int(number_field(row, name)) for name in ("instruction_id", "len_model", "len_baseline")
        )
        once.see(row, f"instruction {id_} of {model}")
        rows = found.setdefault(model, AlpacaRows([], [], [], []))
        p_baseline = _p_baseline(row)
        rows.preferences.append(None if p_baseline is None else 1 - p_baseline)
        rows.model_lengths.append(length)
        rows.baseline_lengths.append(baseline)
        rows.ids.append(id_)
    return found


def read_model_outputs(path: Path) -> list[tuple[Prompt, Completion]]:
    """The answers of one model, a `model_outputs.json`; other columns are metadata of the prompt.

    Raises:
        DataError: A field is missing, an instruction is there twice, or there are several models.
    """
    found, once = [], Once()
    for row in rows_of(path):
        prompt = Prompt.from_text(
            text_field(row, "instruction"),
            source=row.where,
            metadata=rest(row.values, *_OUTPUT_COLUMNS),
        )
        answer = answer_to(prompt, 0, text_field(row, "output"), text_field(row, "generator"))
        once.see(row, f"the instruction {show(prompt.text)} (prompt {prompt.id})")
        once.share(row, "generator", answer.model)
        found.append((prompt, answer))
    return found


def write_model_outputs(path: Path, answers: Sequence[tuple[Prompt, Completion]]) -> None:
    """Write one model's answers as a `model_outputs.json`.

    Raises:
        DataError: A prompt has two answers, an answer is not of its prompt, there are several
            models, or a prompt is not a single user turn.
    """
    rows, seen = [], set()
    for place, (prompt, answer) in enumerate(answers):
        if answer.prompt_id != prompt.id:
            raise DataError(
                f"answer {place}: it is of prompt {answer.prompt_id}, not of {prompt.id}"
            )
        if prompt.id in seen:
            raise DataError(
                f"answer {place}: prompt {prompt.id} has one before; AlpacaEval takes one answer "
                "each"
            )
        if answer.model != answers[0][1].model:
            raise DataError(
                f"answer {place}: model {answer.model!r}, but {answers[0][1].model!r} before"
            )
        seen.add(prompt.id)
        fields: dict[str, JsonValue] = {
            "instruction": one_turn(prompt, "AlpacaEval"),
            "output": answer.text,
            "generator": answer.model,
        }
        rows.append(prompt.metadata | fields)
    write_list(path, rows)


def _annotation(
    row: SourceRow, outputs: Outputs | None, baseline_outputs: Outputs | None
) -> AlpacaAnnotation:
    prompt = Prompt.from_text(text_field(row, "instruction"), source=row.where)
    baseline = answer_to(prompt, 0, *_side(row, prompt, 1, baseline_outputs))
    model = answer_to(prompt, 1, *_side(row, prompt, 2, outputs))
    p_first = _p_baseline(row)
    judgment = Judgment(
        comparison=Comparison(prompt_id=prompt.id, first=baseline.id, second=model.id),
        judge=name_field(row, "annotator"),
        p_first=p_first,
        error=NO_ANNOTATION if p_first is None else None,
    )
    return AlpacaAnnotation(
        prompt=prompt,
        baseline=baseline,
        model=model,
        judgment=judgment,
        metadata=rest(row.values, *_ANNOTATION_COLUMNS),
    )


def _side(row: SourceRow, prompt: Prompt, number: int, outputs: Outputs | None) -> tuple[str, str]:
    """Text and model of an answer, from the row or the outputs, which must not differ."""
    text, model = f"output_{number}", f"generator_{number}"
    if outputs is None:
        return text_field(row, text), text_field(row, model)
    if prompt.text not in outputs:
        raise DataError(
            f"{row.where}: {show(prompt.text)} is not among the {len(outputs)} instructions of "
            "the outputs; give those "
            "that were annotated"
        )
    answer = outputs[prompt.text]
    for name, other in ((text, answer.text), (model, answer.model)):
        if (given := row.values.get(name)) not in (None, other):
            raise DataError(
                f"{row.where}: {name} is {show(given)}, but {show(other)} in the outputs; give "
                "those that were annotated"
            )
    return answer.text, answer.model


def _p_baseline(row: SourceRow) -> float | None:
    """P(the baseline is better), None where the judge gave no preference."""
    if field(row, "preference") in (None, ""):  # a CSV file has no null
        return None
    value = number_field(row, "preference")
    if value != 0 and not 1 <= value <= 2:
        raise DataError(
            f"{row.where}: preference must be in [1, 2] (2 is the model's answer), 0 for a draw "
            "or null for no "
            f"annotation, got {value}; was the verdict not understood?"
        )
    return 0.5 if value == 0 else 2 - value
