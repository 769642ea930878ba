"""Write the table of metrics in docs/metrics.md from the code: `make docs`."""

import inspect
from pathlib import Path

from prefine.config.components import TABLES, lookup, options_model
from prefine.metrics.protocol import needs_of

PAGE = Path(__file__).parent / "metrics.md"
HEAD = "| `metrics` | figures | needs | options |\n|---|---|---|---|\n"


def row(name: str) -> str:
    """One metric: its docstring's first line, what it needs, and its options with defaults."""
    metric = lookup("metric", name, where="docs")
    what = (inspect.getdoc(metric) or "").splitlines()[0].rstrip(".").replace("|", "\\|")
    needs = ", ".join(sorted(needs_of(metric, where="docs"))).replace("_", " ")
    options = ", ".join(
        f"`{option}` ({field.default})"
        for option, field in options_model(metric).model_fields.items()
    )
    return f"| `{name}` | {what} | {needs} | {options} |\n"


def with_table(page: str) -> str:
    """Return the page with its table of metrics written anew."""
    before, found, rest = page.partition(HEAD)
    assert found, f"{PAGE.name} has no table with the head {HEAD!r}"
    lines = rest.splitlines(keepends=True)
    after = next(number for number, line in enumerate(lines) if not line.startswith("|"))
    return before + HEAD + "".join(map(row, TABLES["metric"])) + "".join(lines[after:])


if __name__ == "__main__":
    PAGE.write_text(with_table(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
