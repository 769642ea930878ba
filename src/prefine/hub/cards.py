"""The cards of what is published: the run's figures with their intervals, and the licences."""

import html
import re
from dataclasses import dataclass
from typing import Any

from jinja2 import Environment, PackageLoader

from prefine.config.sections import RunConfig
from prefine.records import MetricValue
from prefine.report.data import ReportData
from prefine.report.outcome import budget_outcome, budget_sentence
from prefine.report.text import interval_text, value_text
from prefine.training.logging.model_card import code_span, is_ours, table_cell, without_mark

UNKNOWN = "unknown"
"""The word of a card for a licence that nobody knows."""

_KINDS = {
    "pairs": "a prompt, a chosen and a rejected answer",
    "bridged_pairs": "a prompt, a chosen and a rejected answer, some chosen ones rewritten",
    "lists": "a prompt and answers with scores or ranks",
    "labels": "a prompt and an answer that is good or bad",
}


@dataclass(frozen=True)
class Licences:
    """The licences of what a run was made from, and of what is published.

    Attributes:
        base: Of the base model, None where it is not known.
        data: Of the data, None where it is not known.
        stated: What the user says that the published has.
    """

    base: str | None
    data: str | None
    stated: str | None

    def of(self, type_: str) -> str | None:
        """The licence of a model (that of its base) or of a data set; None if it is not known."""
        return self.stated or (self.base if type_ == "model" else self.data)


@dataclass(frozen=True)
class CardFigure:
    """A row of the table of figures."""

    name: str
    value: str
    interval: str
    n: int


def figures(data: ReportData) -> list[CardFigure]:
    """Return the report's figures, each with its 95 % interval where it has one."""
    named: list[tuple[str, MetricValue]] = []
    for contest in data.contests:
        role = "the judge" if contest.role == "judge" else "the gold score"
        named.append((f"win rate against {data.baseline} by {role}", contest.win_rate))
    for score in data.constraints:
        named.append((f"gold {score.name}, before", score.before))
        named.append((f"gold {score.name}, after", score.after))
        if score.change is not None:
            named.append((f"gold {score.name}, change", score.change))
    named += [(metric.name.replace("_", " "), metric) for metric in data.metrics]
    if (budget := budget_outcome(data)) is not None:
        named.append((budget.held_out.name.replace("_", " "), budget.held_out))
    return [
        CardFigure(name, value_text(value), interval_text(value), value.n) for name, value in named
    ]


def model_repository_card(text: str, data: ReportData, licences: Licences, base: str | None) -> str:
    """Return the card of a published model: that of its folder, with figures and licences.

    A card that somebody else wrote keeps its text and what its header says.

    Args:
        text: The card in the model's folder.
        data: The run's report.
        licences: Of base model and data.
        base: The base model's id on the hub, if it has one.
    """
    from huggingface_hub import ModelCard

    card = ModelCard(without_mark(text), ignore_metadata_errors=True)
    if (licence := licences.of("model")) and (licences.stated or not card.data.get("license")):
        card.data["license"] = licence
    if base is not None and is_ours(text) and not card.data.get("base_model"):
        card.data["base_model"] = base
    card.text = f"{card.text.rstrip()}\n\n{_section(data, licences)}"
    return str(card)


def header_of(text: str) -> dict[str, Any]:
    """Return what the header of a card says."""
    from huggingface_hub import ModelCard

    return dict(vars(ModelCard(text, ignore_metadata_errors=True).data))


def stated_licence(text: str) -> str | None:
    """Return the licence that the header of a card states, else None."""
    found = header_of(text).get("license")
    return found if isinstance(found, str) and found else None


def dataset_repository_card(
    config: RunConfig,
    data: ReportData,
    licences: Licences,
    *,
    repo: str,
    rows: dict[str, int],
) -> str:
    """Return the card of a published data set of items.

    Args:
        config: Of the run.
        data: Its report.
        licences: Of base model and data.
        repo: The repository's id.
        rows: The number of rows of each table, held-out ones among them.
    """
    from huggingface_hub import DatasetCard, DatasetCardData

    trained = [name for name in rows if not name.startswith("heldout_")]
    card = DatasetCard("---\ntags: []\n---\n")
    card.data = DatasetCardData(
        license=licences.of("dataset"),
        task_categories=["text-generation"],
        tags=["prefine", "preference"],
        configs=[_as_configuration(name, rows, default=name == trained[0]) for name in trained],
    )
    card.text = _render(
        "dataset_card.md.j2",
        title=repo.rpartition("/")[2],
        repo=repo,
        tables=[(name, rows[name], _kind(name)) for name in rows],
        made=_how_it_was_made(config),
        first=trained[0],
        section=_section(data, licences),
    )
    return str(card)


def _as_configuration(name: str, rows: dict[str, int], *, default: bool) -> dict[str, Any]:
    splits = [{"split": "train", "path": f"{name}/*.parquet"}]
    held_out = f"heldout_{name.removeprefix('bridged_')}"
    if held_out in rows:
        splits.append({"split": "test", "path": f"{held_out}/*.parquet"})
    found: dict[str, Any] = {"config_name": name, "data_files": splits}
    return found | ({"default": True} if default else {})


def _kind(name: str) -> str:
    return _KINDS[name.removeprefix("heldout_")]


def _how_it_was_made(config: RunConfig) -> list[tuple[str, str]]:
    """The components that made the items, by their names."""
    found = [(f"{name} came from source", one.name) for name, one in config.items_entries.items()]
    for name in ("prompts", "completions"):
        if (source := getattr(config, name)) is not None:
            found.append((f"{name} came from source", source.name))
    if config.sample is not None:
        number = config.sample.completions_per_prompt
        found.append(("answers sampled per prompt", str(number)))
    if config.rank is not None:
        found.append(("ranked by strategy", config.rank.strategy.name))
        found.append(("with the judge", config.rank.judge.name))
    if not config.items_entries:
        found.append(("selected by", config.pair.selector.name))
    if config.bridge is not None:
        found.append(("rewritten by", config.bridge.model.name))
    return found


def _section(data: ReportData, licences: Licences) -> str:
    budget = budget_outcome(data)
    return _render(
        "figures.md.j2",
        figures=figures(data),
        budget="" if budget is None else budget_sentence(budget),
        warnings=[_plain(warning) for warning in data.warnings],
        base=licences.base or UNKNOWN,
        data=licences.data or UNKNOWN,
    )


def _plain(text: str) -> str:
    """A text on one line without Markdown, HTML or marks against line breaks."""
    line = " ".join(text.replace("\u2060", "").split())
    return re.sub(r"([\\`*_\[\]#|])", r"\\\1", html.escape(line, quote=False))


def _render(template: str, **values: Any) -> str:
    templates = Environment(
        loader=PackageLoader("prefine.hub", ""), trim_blocks=True, keep_trailing_newline=True
    )
    templates.filters |= {"code": code_span, "cell": table_cell}
    return templates.get_template(template).render(**values)
