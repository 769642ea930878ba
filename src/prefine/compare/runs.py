"""The runs that are compared, each read once, finished or while it works."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from prefine.errors import ConfigError
from prefine.records import Manifest
from prefine.report.data import OUTCOMES, AnswerExample
from prefine.run.config_changes import fingerprinted, with_new_defaults
from prefine.run.tables import parse
from prefine.run.view import RunView

LETTERS = "ABCDEFGH"
"""The short names of runs; so many can be told apart in a picture."""


class RunRead(NamedTuple):
    """One run: its settings with today's defaults, its logs, its evaluation prompts by id.

    `final` has the figures of all training items after the last step. `judge` and `gold` are how
    the evaluation scored, by what decides their answers; None where it did not. Without an
    evaluation that has ended, there are no `outcomes`.
    """

    letter: str
    path: Path
    config: dict[str, Any]
    manifests: dict[str, Manifest]
    outcomes: dict[str, AnswerExample]
    judge: Any
    gold: Any
    final: dict[str, Any]
    train_log: list[dict[str, Any]]
    eval_log: list[dict[str, Any]]

    @property
    def status(self) -> str:
        """The last stage that began, and whether it has ended."""
        return status_words(self.manifests)


def status_words(manifests: Mapping[str, Manifest]) -> str:
    """Return the last stage that began, and whether it has ended."""
    if not manifests:
        return "no stage has begun"
    name, manifest = list(manifests.items())[-1]
    if manifest.complete:
        return "ended" if name == "report" else f"{name} has ended"
    stopped = f", stopped: {manifest.stopped_by}" if manifest.stopped_by else ""
    return f"{name} has not ended{stopped}"


def read_runs(paths: Sequence[Path]) -> tuple[RunRead, ...]:
    """Read the runs to compare.

    Raises:
        ConfigError: Fewer than two, too many, one that is named twice, or a folder that is no run.
        DataError: A file of a run is damaged.
    """
    if len(paths) < 2:
        raise ConfigError("prefine compare: name two runs or more")
    if len(paths) > len(LETTERS):
        raise ConfigError(
            f"prefine compare: {len(paths)} runs are more than can be told apart; name at most "
            f"{len(LETTERS)}"
        )
    places = [path.resolve() for path in paths]
    for number, place in enumerate(places):
        if place in places[:number]:
            raise ConfigError(f"{paths[number]}: is named twice; name different runs")
    return tuple(_read(letter, path) for letter, path in zip(LETTERS, paths, strict=False))


def _read(letter: str, path: Path) -> RunRead:
    inner = sorted(found.parent for found in path.glob("*/config.json"))
    try:
        view = RunView(path)
    except ConfigError as error:
        if not inner:
            raise
        raise ConfigError(
            f"{path}: holds several runs; name those to compare{_such(inner)}"
        ) from error
    config = with_new_defaults(view.config())
    if config.get("rounds") and inner:
        raise ConfigError(f"{path}: a run of rounds; name the rounds to compare{_such(inner)}")
    manifests = view.manifests()
    evaluated = "evaluate" in manifests and manifests["evaluate"].complete
    rows = view.log(OUTCOMES) if evaluated else []
    where = str(path / OUTCOMES)
    outcomes = [parse(AnswerExample, row, where=where) for row in rows]
    counted = fingerprinted(config)
    return RunRead(
        letter=letter,
        path=path,
        config=config,
        manifests=manifests,
        outcomes={one.prompt_id: one for one in outcomes},
        judge=_at(counted, "evaluate", "judge") or _at(counted, "rank", "judge"),
        gold=_at(counted, "evaluate", "gold"),
        final=(view.json("train_final.json") or {}).get("final", {}),
        train_log=view.log("train_log.jsonl"),
        eval_log=view.log("eval_log.jsonl"),
    )


def _at(config: Mapping[str, Any], *names: str) -> Any:
    value: Any = config
    for name in names:
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def _such(folders: Sequence[Path]) -> str:
    shown = " ".join(str(folder) for folder in folders[:3])
    return f": {shown}{' …' if len(folders) > 3 else ''}"
