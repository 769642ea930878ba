"""The model card (`README.md`) of a trained folder, filled into `model_card.md.j2`."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from jinja2 import Environment, PackageLoader

from prefine.records import content_hash
from prefine.secrets import redact

if TYPE_CHECKING:  # cards are read without torch
    from prefine.training.logging.figures import TrainSummary

CARD_NAME = "README.md"
_AUTO_CLASS, _REWARD_CLASS = "AutoModelForCausalLM", "AutoModelForSequenceClassification"

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?", re.ASCII)
_TAG = re.compile(r"[a-z0-9][a-z0-9_-]*", re.ASCII)
_MARK = re.compile(r"\n<!-- written by prefine, ([0-9a-f]{16}) -->\n\Z")


def model_card(
    *,
    name: str,
    base_model: str,
    base_on_hub: bool,
    adapter: bool,
    train: Mapping[str, Any],
    summary: "TrainSummary",
    dropped: Mapping[str, int],
    versions: Mapping[str, str],
    datasets: Sequence[str] = (),
    held_out: Mapping[str, Any] | None = None,
    budget: str = "",
) -> str:
    """Return the text of a model card, ending with a mark by which `is_ours` recognises it.

    Texts from outside stand in code, where neither Markdown nor HTML means anything, and keys that
    were read are hidden. The licence is left to whoever publishes the folder.

    Args:
        name: Of the model or its run; the title.
        base_model: Hub id or folder of the policy.
        base_on_hub: Whether it is a hub id; a folder is not named in the metadata.
        adapter: Whether the folder holds an adapter and not whole weights.
        train: The resolved section `train` of the configuration.
        summary: Steps and final figures of the training.
        dropped: How many items were not trained on, by reason.
        versions: Versions of prefine and the libraries.
        datasets: Hub ids of the items' source; none if they did not come from the hub.
        held_out: The last row of the evaluations of held-out items, if there were any.
        budget: The verdict on the likelihood budget, if there is one.
    Returns: Markdown with a YAML header.
    """
    reward = train.get("reward")
    losses, regularizer = _component_names((train if reward is None else reward).get("loss")), None
    if reward is None:
        regularizer = _component_name(train.get("regularizer"))
    datasets = [*dict.fromkeys(datasets)]
    metadata: dict[str, Any] = {}
    if base_on_hub and _HUB_ID.fullmatch(base_model):
        metadata["base_model"] = base_model
        metadata["base_model_relation"] = "adapter" if adapter else "finetune"
    metadata["library_name"] = "peft" if adapter else "transformers"
    metadata["pipeline_tag"] = "text-generation" if reward is None else "text-classification"
    if on_hub := [name for name in datasets if _HUB_ID.fullmatch(name)]:
        metadata["datasets"] = on_hub
    tags = ["prefine", "preference-optimization" if reward is None else "reward-model"]
    parts = [*losses, *filter(None, [regularizer])]
    tags += [part for part in parts if _TAG.fullmatch(part)]
    metadata["tags"] = [*dict.fromkeys([*tags, "lora"] if adapter else tags)]

    templates = Environment(
        loader=PackageLoader("prefine.training.logging", ""),
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    templates.filters |= {
        "code": code_span,
        "cell": table_cell,
        "fenced": _fenced,
        "number": _number,
    }
    text = redact(
        templates.get_template("model_card.md.j2").render(
            metadata=yaml.safe_dump(metadata, sort_keys=False),
            title=_title(name),
            base_model=base_model,
            adapter=adapter,
            rewards=reward is not None,
            auto_class=_AUTO_CLASS if reward is None else _REWARD_CLASS,
            loss=" + ".join(losses) or "unknown",
            regularizer=regularizer,
            summary=summary,
            final=_with_kinds(summary.final.model_dump()),
            described=summary.final.described,
            datasets=datasets,
            held_out=None if held_out is None else _with_kinds(held_out),
            budget=budget,
            dropped=sorted(dropped.items()),
            train=_yaml(train),
            versions=versions,
        )
    )
    return f"{text}\n<!-- written by prefine, {content_hash(text)} -->\n"


def without_mark(text: str) -> str:
    """Return a card without the mark of `model_card`, for one that is changed before it is used."""
    return _MARK.sub("\n", text)


def is_ours(text: str) -> bool:
    """Return True if a card was written by `model_card` and not changed since."""
    mark = _MARK.search(text)
    return mark is not None and mark[1] == content_hash(text[: mark.start()])


def foreign_card(folder: Path) -> bytes | None:
    """Return the card in a folder if somebody else wrote or changed it, else None."""
    file = folder / CARD_NAME
    if not file.is_file():
        return None
    content = file.read_bytes()
    return None if is_ours(content.decode("utf-8", "replace")) else content


def write_card(folder: Path, card: str, *, previous: Path) -> None:
    """Write the card of a folder, or the one in `previous` if somebody else wrote or changed it."""
    users_card = foreign_card(previous)
    (folder / CARD_NAME).write_bytes(card.encode() if users_card is None else users_card)


def _component_name(value: Any) -> str | None:
    return str(value["name"]) if isinstance(value, Mapping) else None


def _component_names(value: Any) -> list[str]:
    """The name of a component, or the names of those for each kind of items."""
    if isinstance(value, Mapping) and "name" not in value:
        return [name for one in value.values() if (name := _component_name(one)) is not None]
    name = _component_name(value)
    return [] if name is None else [name]


def _with_kinds(row: Mapping[str, Any]) -> dict[str, Any]:
    """The columns of a row, those of each kind of items under `KIND.NAME`."""
    within = {
        f"{kind}.{name}": value
        for kind, own in row.get("kinds", {}).items()
        for name, value in own.items()
    }
    return {**row, **within}


def _number(value: float | None) -> str:
    # A figure without a standard error is undefined in the template.
    return f"{value:.4g}" if isinstance(value, float) else ""


def _yaml(value: Mapping[str, Any]) -> str:
    text = yaml.safe_dump(dict(value), sort_keys=False, allow_unicode=True)
    # Marks that turn the direction of writing, and the like, only as escapes.
    readable = all(character.isprintable() or character == "\n" for character in text)
    return text if readable else yaml.safe_dump(dict(value), sort_keys=False)


def _title(text: str) -> str:
    words = re.sub(r"[^\w .-]", " ", _one_line(text)).split()
    return " ".join(words).lstrip(".-_ ") or "A trained model"


def _one_line(text: str) -> str:
    """The text without line breaks and invisible characters, at most 200 characters."""
    line = " ".join("".join(one if one.isprintable() else " " for one in redact(text)).split())
    return line if len(line) <= 200 else f"{line[:199]}…"


def code_span(text: str) -> str:
    """A code span, which shows its content as it is."""
    line = _one_line(text)
    fence = "`" * (_longest_run(line) + 1)
    # A span that begins or ends with a backtick, or is empty, needs room.
    room = " " if not line or "`" in (line[0], line[-1]) else ""
    return f"{fence}{room}{line}{room}{fence}"


def table_cell(text: str) -> str:
    """A code span in a table: also within code, a bar ends a cell."""
    return code_span(text).replace("|", "\\|")


def _fenced(text: str, language: str) -> str:
    fence = "`" * max(3, _longest_run(text) + 1)
    return f"{fence}{language}\n{text}{fence}"


def _longest_run(text: str) -> int:
    return max((len(run) for run in re.findall("`+", text)), default=0)
