"""The model card (`README.md`) of a trained folder: what it is, what it was trained on and how, and how to load it."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from prefine.atomic import write_atomically
from prefine.records import content_hash
from prefine.secrets import redact
from prefine.training.logging.figures import FinalFigures, TrainSummary

CARD_NAME = "README.md"

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?", re.ASCII)
_TAG = re.compile(r"[a-z0-9][a-z0-9_-]*", re.ASCII)
_MARK = re.compile(r"\n<!-- written by prefine, ([0-9a-f]{16}) -->\n\Z")
_BUDGETS = {"budget", "step_budget"}
_CITATION = """@misc{chen2024improved,
  title = {Towards Improved Preference Optimization Pipeline: from Data Generation to Budget-Controlled Regularization},
  author = {Chen, Zhuotong and Liu, Fang and Zhu, Jennifer and Du, Wanyu and Qi, Yanjun},
  year = {2024},
  eprint = {2411.05875},
  archivePrefix = {arXiv}
}
"""
# Name in the card, figure, unit.
_FIGURES = (
    ("margin", "margin", "nats"),
    ("accuracy (share of pairs whose margin is positive)", "accuracy", ""),
    ("fall of the chosen answer's log-probability", "fall", "nats"),
    ("the same per token", "token_fall", "nats"),
    ("change of the rejected answer's log-probability", "rejected_change", "nats"),
    ("share of pairs beyond the budget", "beyond_budget", ""),
)


def model_card(
    *,
    name: str,
    base_model: str,
    base_on_hub: bool,
    adapter: bool,
    train: Mapping[str, Any],
    summary: TrainSummary,
    dropped: Mapping[str, int],
    versions: Mapping[str, str],
    datasets: Sequence[str] = (),
    stopped_by: str | None = None,
) -> str:
    """The text of a model card, ending with a mark by which `is_ours` knows it.

    Texts from outside stand in code, where neither Markdown nor HTML means anything, and keys that
    were read are hidden. The licence is left to whoever publishes the folder.

    Args:
        name: Of the model or its run; the title.
        base_model: Hub id or folder of the policy.
        base_on_hub: Whether it is a hub id; a folder is not named in the metadata.
        adapter: Whether the folder holds an adapter and not whole weights.
        train: The resolved section `train` of the configuration.
        summary: What the training did.
        dropped: How many pairs were not trained on, by reason.
        versions: Versions of prefine and the libraries.
        datasets: Hub ids of what the pairs came from; none if they did not come from the hub.
        stopped_by: The alarm that ended the training early.
    Returns: Markdown with a YAML header.
    """
    loss, regularizer = _component(train.get("loss")), _component(train.get("regularizer"))
    metadata: dict[str, Any] = {}
    if base_on_hub and _HUB_ID.fullmatch(base_model):
        metadata |= {
            "base_model": base_model,
            "base_model_relation": "adapter" if adapter else "finetune",
        }
    metadata["library_name"] = "peft" if adapter else "transformers"
    metadata["pipeline_tag"] = "text-generation"
    found = [data for data in dict.fromkeys(datasets) if _HUB_ID.fullmatch(data)]
    if found:
        metadata["datasets"] = found
    parts = [part for part in (loss, regularizer) if part is not None and _TAG.fullmatch(part)]
    metadata["tags"] = [
        *dict.fromkeys(
            ["prefine", "preference-optimization", *parts, *(["lora"] if adapter else [])]
        )
    ]

    what = "An adapter for" if adapter else "Trained from"
    method = _code(loss or "unknown") + (
        f" with the regularizer {_code(regularizer)}" if regularizer else ""
    )
    end = (
        f" An alarm of likelihood over-optimisation, {_code(stopped_by)}, ended it early."
        if stopped_by
        else ""
    )
    sections = [
        f"---\n{yaml.safe_dump(metadata, sort_keys=False)}---\n",
        f"# {_title(name)}\n",
        f"{what} {_code(base_model)} by preference optimization with prefine: the loss is "
        f"{method}.\n",
        "## Training\n",
        f"{summary.pairs} preference pairs, {summary.steps} optimizer steps, "
        f"{summary.steps_per_epoch} steps an epoch." + end + "\n",
        _sources(datasets),
        _table(
            ("pairs not trained on", "number"),
            [(_code(why), str(count)) for why, count in sorted(dropped.items())],
        ),
        "The section `train` of the configuration:\n",
        _fenced(_yaml(train), "yaml"),
        "## Figures after training\n",
        "Over the pairs that it was trained on; they say nothing about other prompts. A margin is "
        "a difference of "
        "log-ratios between policy and reference, a fall is the initial minus the final "
        "log-probability. Standard "
        "errors are over pairs.\n",
        _table(("figure", "value", "standard error", "unit"), _figures(summary.final)),
        "## How to load it\n",
        _fenced(_loading(adapter), "python"),
        "## Versions\n",
        _table(
            ("package", "version"),
            [(_code(one), _code(version)) for one, version in versions.items()],
        ),
    ]
    if regularizer in _BUDGETS:
        sections += [
            "## Citation\n",
            "The likelihood budget follows this paper:\n",
            _fenced(_CITATION, "bibtex"),
        ]
    text = redact("\n".join(section for section in sections if section))
    return f"{text}\n<!-- written by prefine, {content_hash(text)} -->\n"


def is_ours(text: str) -> bool:
    """Whether a card was written by `model_card` and not changed since."""
    mark = _MARK.search(text)
    return mark is not None and mark[1] == content_hash(text[: mark.start()])


def foreign_card(folder: Path) -> bytes | None:
    """The card in a folder that somebody else wrote or changed, or None."""
    file = folder / CARD_NAME
    if not file.is_file():
        return None
    content = file.read_bytes()
    return None if is_ours(content.decode("utf-8", "replace")) else content


def write_card(folder: Path, card: str | bytes) -> bool:
    """Write the card of a folder, unless there is one that is not ours; returns whether it was written.

    Raises:
        LimitError: The disk is full.
        ConfigError: The folder cannot be written.
    """
    if foreign_card(folder) is not None:
        return False
    content = card.encode() if isinstance(card, str) else card
    write_atomically(folder / CARD_NAME, lambda path: _write(path, content))
    return True


def _write(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def _component(value: Any) -> str | None:
    return str(value["name"]) if isinstance(value, Mapping) else None


def _sources(datasets: Sequence[str]) -> str:
    if not datasets:
        return ""
    return f"The pairs came from {', '.join(_code(data) for data in dict.fromkeys(datasets))}.\n"


def _figures(final: FinalFigures) -> list[tuple[str, ...]]:
    values = final.model_dump()
    return [
        (words, _number(values[name]), _number(values.get(f"{name}_se")), unit)
        for words, name, unit in _FIGURES
        if values[name] is not None
    ]


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _loading(adapter: bool) -> str:
    remark = "  # needs the package peft" if adapter else ""
    return (
        "from transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
        'folder = "path or hub id of this folder"\n'
        f"model = AutoModelForCausalLM.from_pretrained(folder){remark}\n"
        "tokenizer = AutoTokenizer.from_pretrained(folder)\n"
    )


def _yaml(value: Mapping[str, Any]) -> str:
    text = yaml.safe_dump(dict(value), sort_keys=False, allow_unicode=True)
    # Marks that turn the direction of writing, and the like, only as escapes.
    readable = all(character.isprintable() or character == "\n" for character in text)
    return text if readable else yaml.safe_dump(dict(value), sort_keys=False)


def _title(text: str) -> str:
    return (
        " ".join(re.sub(r"[^\w .-]", " ", _one_line(text)).split()).lstrip(".-_ ")
        or "A trained model"
    )


def _one_line(text: str) -> str:
    """Without line breaks and what cannot be seen, at most 200 characters."""
    line = " ".join("".join(one if one.isprintable() else " " for one in redact(text)).split())
    return line if len(line) <= 200 else f"{line[:199]}…"


def _code(text: str) -> str:
    """A code span; its content is shown as it is."""
    line = _one_line(text)
    fence = "`" * (_longest_run(line) + 1)
    # A span that begins or ends with a backtick, or is empty, needs room.
    room = " " if not line or "`" in (line[0], line[-1]) else ""
    return f"{fence}{room}{line}{room}{fence}"


def _fenced(text: str, language: str) -> str:
    fence = "`" * max(3, _longest_run(text) + 1)
    return f"{fence}{language}\n{text}{fence}\n"


def _longest_run(text: str) -> int:
    return max((len(run) for run in re.findall("`+", text)), default=0)


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    if not rows:
        return ""
    # Also within code, a bar ends a cell.
    lines = [
        head,
        ("---",) * len(head),
        *(tuple(cell.replace("|", "\\|") for cell in row) for row in rows),
    ]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
