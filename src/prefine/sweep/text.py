"""The figures of a sweep in words: names of settings, its table, and what was fitted."""

import json
from collections.abc import Mapping

from pydantic import JsonValue

from prefine.records import MetricValue
from prefine.sweep.growth import Growth, is_of
from prefine.sweep.results import Hill, SettingResult, SweepResult
from prefine.sweep.trials import path_words


def setting_words(result: SweepResult, values: Mapping[str, JsonValue]) -> str:
    """Return values by config path as people read them, such as "loss: simpo, epochs: 3"."""
    words = path_words([one.values for one in result.settings])
    return ", ".join(f"{words[path]}: {_value_words(value)}" for path, value in values.items())


def name_words(result: SweepResult, name: str | None) -> str:
    """Return the setting of this name as people read it."""
    return setting_words(result, _called(result, name).values)


def _called(result: SweepResult, name: str | None) -> SettingResult:
    return next(one for one in result.settings if one.name == name)


def _value_words(value: JsonValue) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, list) and value:
        return " and ".join(map(_value_words, value))
    if isinstance(value, dict) and "name" in value:
        name = _value_words(value["name"])
        options = [f"{key} {_value_words(one)}" for key, one in value.items() if key != "name"]
        return f"{name} ({', '.join(options)})" if options else name
    return "none" if value is None else json.dumps(value, ensure_ascii=False)


def rows_of(result: SweepResult) -> list[tuple[str, ...]]:
    """Return the table of settings, its headings first."""
    # How many items there were to train on is shown where settings differ in it.
    counted = len({one.items for one in result.settings}) > 1
    headings = ["setting"]
    if result.scored_by is not None:
        headings += [f"win rate by {result.scored_by} [%]", "difference [points]"]
    headings += ["held-out fall [nats]", "fall [nats]", *(["items"] if counted else [])]
    rows = [tuple(headings)]
    for one in result.settings:
        cells = [setting_words(result, one.values)]
        if result.scored_by is not None:
            is_base = one.name == result.baseline_of(one)
            difference = "baseline" if is_base else with_interval(one.difference)
            cells += [with_interval(one.win_rate), difference]
        cells += [with_error(one.held_out_fall), with_error(one.fall)]
        rows.append((*cells, *([f"{one.items:,.0f}"] if counted else [])))
    return rows


def baseline_words(result: SweepResult) -> str:
    """Return which setting, or which of each block of settings, the differences are to."""
    bases = {one.name: _called(result, result.baseline_of(one)) for one in result.settings}
    if len({base.name for base in bases.values()}) == 1:
        return f"differences are to {name_words(result, result.baseline)}"
    common: dict[str, JsonValue] = {}
    for one in result.settings:
        values = bases[one.name].values
        common |= {path: values[path] for path in values if one.values.get(path) != values[path]}
    words = path_words([one.values for one in result.settings])
    others = dict.fromkeys(
        words[path] for base in bases.values() for path in base.values if path not in common
    )
    return (
        f"each difference is to the setting with {setting_words(result, common)} and the same "
        f"{' and '.join(others)}"
    )


def lines_of(result: SweepResult) -> list[str]:
    """Return the result as lines to print."""
    rows = rows_of(result)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for first, *rest in rows:
        cells = [cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True)]
        lines.append("  ".join([first.ljust(widths[0]), *cells]))
    lines.append("")
    if result.scored_by is not None:
        lines.append(baseline_words(result))
    if result.best_score is not None:
        naive = with_interval(_called(result, result.best).win_rate)
        lines += [
            f"best of {len(result.settings)}: {naive} % ({name_words(result, result.best)})",
            f"  on prompts that have not chosen it: {with_interval(result.best_score)} % "
            f"({name_words(result, result.best_on_half)})",
        ]
    lines += [f"{hill.path}: {hill_words(hill)}" for hill in result.hills]
    for growth in result.growths:
        among = setting_words(result, growth.others)
        lines.append(f"{growth_words(result, growth)}{f' ({among})' if among else ''}")
    return [*lines, *(f"note: {note}" for note in result.notes)]


def hill_words(hill: Hill) -> str:
    """Return the top of a hill in words, with its interval."""
    if hill.top is None:
        return "the win rates show no top: a parabola through them opens upwards"
    words = f"the top of a parabola through the win rates is at {hill.top:.3g}"
    if hill.interval is None:
        return f"{words}, and they do not exclude that there is none"
    low, high = (("no end" if end is None else f"{end:.3g}") for end in hill.interval)
    return f"{words} [{low}, {high}]"


def growth_words(result: SweepResult, growth: Growth) -> str:
    """Return the end of a curve in words, with its interval, and how near to it the results are."""
    most = max(one.items for one in result.settings if is_of(growth, one.values))
    reached = f"at {most:,.0f} items the curve has reached {growth.at(most):.1f} %"
    low, high = ("no end" if end is None else f"{end:.1f}" for end in growth.interval)
    if not growth.identified:
        return (
            f"with more data no limit of the win rate is identified [{low}, {high}] %: the results "
            f"fit one that is as far away as you like; {reached}"
        )
    return (
        f"with more data the win rate goes towards {growth.limit:.1f} % [{low}, {high}]; {reached}"
    )


def with_interval(value: MetricValue | None) -> str:
    """Return a value with its interval; nothing where there is none."""
    if value is None:
        return ""
    if value.interval is None:
        return f"{value.value:.1f}"
    return f"{value.value:.1f} [{value.interval[0]:.1f}, {value.interval[1]:.1f}]"


def with_error(value: MetricValue | None) -> str:
    """Return a value with its standard error; nothing where there is none."""
    if value is None:
        return ""
    error = "" if value.standard_error is None else f" ± {value.standard_error:.2f}"
    return f"{value.value:.2f}{error}"
