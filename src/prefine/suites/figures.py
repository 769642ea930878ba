"""The metrics of public annotation files: a file of any known kind → figures of each model or judge in it."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from prefine.errors import ConfigError, DataError
from prefine.metrics.texts.screens import empty_outputs, identical_outputs, verdict_like_outputs
from prefine.metrics.win_rates.arena_hard import Battles, arena_hard_elo, arena_hard_scores
from prefine.metrics.win_rates.length_control import length_controlled_win_rate
from prefine.metrics.win_rates.length_data import AlpacaCalibration
from prefine.metrics.win_rates.win_rates import preference_rates
from prefine.records import MetricValue
from prefine.suites import alpaca, arena_hard, judge_figures
from prefine.suites.alpaca_calibration import read_calibration_at
from prefine.suites.judge_figures import SAMPLES, SEED, Figures
from prefine.suites.kinds import Kind, kind_of

UNNAMED = "the baseline"
_ALPACA: tuple[Kind, ...] = ("alpaca_eval", "alpaca_eval_table")


class FileFigures(NamedTuple):
    """What one file says."""

    path: Path
    kind: Kind
    parts: tuple[Figures, ...]


class Extras(NamedTuple):
    """What AlpacaEval's files may need from beside them."""

    outputs: Path | None = None
    baseline_outputs: Path | None = None
    calibration: tuple[Path, ...] = ()


def annotation_figures(
    path: Path, *, kind: Kind | None = None, extras: Extras | None = None
) -> FileFigures:
    """The metrics of a public file, a pattern, or a folder of parts.

    Args:
        path: The file.
        kind: Its kind; None recognises it by the columns of its first row.
        extras: For AlpacaEval's files.

    Raises:
        ConfigError: There is no such file, or something beside it that its kind has no use for.
        DataError: A row is malformed, or the rows together have no such metrics; the message has
            file, row and value.
    """
    extras = extras or Extras()
    found = kind or kind_of(path)
    _check(path, found, extras)
    try:
        if found == "alpaca_eval":
            parts = tuple(_alpaca(path, extras))
        elif found == "alpaca_eval_table":
            parts = tuple(_alpaca_table(path, extras))
        else:
            parts = tuple(_MEASURES[found](path))
    except ValueError as error:
        raise DataError(f"{path}: {error}; correct or remove these rows") from error
    return FileFigures(path, found, parts)


def _check(path: Path, kind: Kind, extras: Extras) -> None:
    for option, given, kinds in (
        ("outputs", extras.outputs, _ALPACA[:1]),
        ("baseline-outputs", extras.baseline_outputs, _ALPACA[:1]),
        ("calibration", extras.calibration, _ALPACA),
    ):
        if given and kind not in kinds:
            raise ConfigError(
                f"--{option} is for {' and '.join(kinds)}; {path} is {kind}: leave it out"
            )
    if extras.calibration and kind == "alpaca_eval" and extras.baseline_outputs is None:
        raise ConfigError(
            "--calibration counts instructions in the benchmark's order, which annotations do not "
            "say: give "
            "--baseline-outputs, the baseline's model_outputs.json, too"
        )


# --- AlpacaEval


def _alpaca(path: Path, extras: Extras) -> Iterator[Figures]:
    outputs, baseline = (
        None
        if file is None
        else {prompt.text: answer for prompt, answer in alpaca.read_model_outputs(file)}
        for file in (extras.outputs, extras.baseline_outputs)
    )
    calibration = read_calibration_at(extras.calibration) if extras.calibration else None
    if (
        calibration is not None
        and baseline is not None
        and len(baseline) != len(calibration.difficulty)
    ):
        raise DataError(
            f"{extras.baseline_outputs}: {len(baseline)} instructions, but the calibration has "
            f"{len(calibration.difficulty)}; give both of one benchmark"
        )
    annotations = alpaca.read_annotations(path, outputs=outputs, baseline_outputs=baseline)
    rows = alpaca.rows_for_length_control(
        annotations, instructions=None if baseline is None else list(baseline)
    )
    texts = {one.prompt.id: one.model.text for one in annotations}
    notes = [
        f"{len(screen.caught):,} of {len(texts):,} {what}"
        for what, screen in (
            ("answers are the same text as another one", identical_outputs(texts)),
            ("answers hold text like a judge's or to a judge", verdict_like_outputs(texts)),
            ("answers are empty", empty_outputs(texts)),
        )
        if screen.caught
    ]
    missing = 0 if baseline is None else len(baseline) - len(annotations)
    if missing > 0:
        notes.append(
            f"{missing:,} of {missing + len(annotations):,} instructions of the benchmark are not "
            "in the file"
        )
    first = annotations[0]
    yield _preferences(
        f"{first.model.model} against {first.baseline.model}", rows, calibration, notes
    )


def _alpaca_table(path: Path, extras: Extras) -> Iterator[Figures]:
    calibration = read_calibration_at(extras.calibration) if extras.calibration else None
    table = alpaca.read_annotation_table(path)
    everything = {id_ for rows in table.values() for id_ in rows.ids}
    for model, rows in table.items():
        absent = len(everything - set(rows.ids))
        of_other_models = (
            f"{absent:,} of the {len(everything):,} instructions of this file are "
            "not among this model's"
        )
        yield _preferences(model, rows, calibration, [of_other_models] if absent else [])


def _preferences(
    of: str, rows: alpaca.AlpacaRows, calibration: AlpacaCalibration | None, notes: Sequence[str]
) -> Figures:
    try:
        rates = preference_rates(rows.preferences)
    except ValueError as error:
        raise ValueError(f"{of}: {error}") from error
    metrics = [rates.win_rate, rates.discrete_win_rate]
    metrics += (
        [rates.draw_rate]
        if rates.decided_win_rate is None
        else [rates.decided_win_rate, rates.draw_rate]
    )
    if all(value in (0, 0.5) for value in rows.preferences if value is not None):
        notes = [
            *notes,
            "no answer of the model is preferred: preferences are in [1, 2], and 0 and 1.5 are "
            "draws",
        ]
    said = [*notes, f"{rates.wins:,} wins, {rates.losses:,} losses, {rates.draws:,} draws"]
    try:
        controlled = length_controlled_win_rate(
            rows.preferences,
            rows.model_lengths,
            rows.baseline_lengths,
            index=rows.ids,
            calibration=calibration,
            samples=SAMPLES,
            seed=SEED,
        )
    except ValueError as error:
        if calibration is not None:
            raise ValueError(f"{of}: {error}") from error
        # The other rates exist; this one does not, and says why.
        said.append(f"no length-controlled win rate: {error}")
        if rates.missing:
            said.append(f"{rates.missing:,} rows without an annotation are in no rate")
    else:
        metrics.insert(1, controlled.win_rate)
        said += controlled.warnings
        if controlled.calibration is not None:
            said.append(f"calibration {controlled.calibration}, C = {controlled.strength}")
    return Figures(of, tuple(metrics), tuple(said))


# --- Arena-Hard


def _arena_hard(path: Path) -> Iterator[Figures]:
    boards: dict[str, list[arena_hard.ArenaJudgment]] = {}
    for one in arena_hard.read_judgments(path):
        boards.setdefault(one.category, []).append(one)
    for category, rows in boards.items():
        named = len(boards) > 1
        for figures in _arena_hard_board(path, rows, rows[0].baseline or UNNAMED):
            yield (
                figures._replace(of=f"{category or 'no category'}: {figures.of}")
                if named
                else figures
            )


def _arena_hard_board(
    path: Path, rows: Sequence[arena_hard.ArenaJudgment], baseline: str
) -> Iterator[Figures]:
    """One category: it has a baseline of its own, and scores against different ones do not compare."""
    try:
        battles = arena_hard.battles_of(rows)
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
    yield from _scores(battles, baseline)
    games = [(one.prompt_id, one.judgments(one.baseline or UNNAMED)) for one in rows]
    yield judge_figures.habits(
        f"judge {rows[0].judge}".strip(),
        [first.p_first for _, (first, _) in games],
        # With the model first, the baseline is second.
        [_turned(second.p_first) for _, (_, second) in games],
        prompt_ids=[prompt for prompt, _ in games],
    )


def _arena_hard_battles(path: Path) -> Iterator[Figures]:
    yield from _scores(*arena_hard.read_battles(path))


def _scores(battles: Battles, baseline: str) -> Iterator[Figures]:
    board = arena_hard_scores(battles, baseline=baseline, samples=SAMPLES, seed=SEED)
    elo: dict[str, MetricValue] = {}
    why = ""
    try:
        fitted = arena_hard_elo(battles, baseline=baseline, samples=SAMPLES, seed=SEED)
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
        notes = (
            [f"{missing:,} prompts lack a verdict in a game and are left out"] if missing else []
        )
        notes += [why] if why else []
        yield Figures(
            f"{model} against {baseline}",
            (score, *([elo[model]] if model in elo else [])),
            tuple(notes),
        )


def _turned(p: float | None) -> float | None:
    return None if p is None else 1 - p


_MEASURES: Mapping[Kind, Callable[[Path], Iterator[Figures]]] = {
    "arena_hard": _arena_hard,
    "arena_hard_battles": _arena_hard_battles,
    "llmbar": judge_figures.llmbar,
    "llmbar_table": judge_figures.llmbar_table,
    "judgments": judge_figures.judgments,
    "reward_bench": judge_figures.reward_bench,
    "reward_bench_2": judge_figures.reward_bench_2,
}
