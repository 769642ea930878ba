"""The README.md of a trained folder, read back as readers of the hub do."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from prefine.config.training import TrainConfig
from prefine.secrets import read_secret
from prefine.training.logging.figures import TrainSummary
from prefine.training.logging.model_card import foreign_card, is_ours, model_card, write_card
from prefine.training.relations.pair_rows import FinalFigures

HOSTILE = (
    "a|b\nc",
    "x\n---\nlicense: mit\n---\n",
    "``` \n# Owned\n```",
    "a\n```\n# Owned\n",
    "`",
    "<script>alert(1)</script>",
    "[click](https://evil.example)",
    "key: [value, {a: b}] # no",
    "\u2028new\u202eline\x1b[31m",
    "-->",
    "![](https://evil.example/x.png)",
    "",
)
FINAL = FinalFigures(
    **{
        **dict.fromkeys(FinalFigures.model_fields, 0.0),
        **{"pairs": 90, "margin": 1.25, "margin_se": 0.125, "accuracy": 0.9, "accuracy_se": 0.03},
        **{"fall": -2.5, "fall_se": 0.75, "beyond_budget": 0.0625},
    }
)
SUMMARY = TrainSummary(
    steps=12,
    planned_steps=12,
    steps_per_epoch=6,
    items=90,
    resumed_from=None,
    reference_reused=False,
    notes=(),
    final=FINAL,
)


def card(**values: Any) -> str:
    return model_card(
        **{
            "name": "my run",
            "base_model": "org/base-1.5B",
            "base_on_hub": True,
            "adapter": False,
            "train": train(),
            "summary": SUMMARY,
            "dropped": {"sides_coincide": 7, "empty_side": 3},
            "versions": {"prefine": "0.1.0", "torch": "2.13.0+cpu"},
            **values,
        }
    )


def train(**values: Any) -> dict[str, Any]:
    return TrainConfig(**values).model_dump(mode="json")


def header(text: str) -> dict[str, Any]:
    match = re.match(r"---\n(.*?)\n---\n", text, re.DOTALL)
    assert match is not None
    found = yaml.safe_load(match[1])
    assert isinstance(found, dict)
    assert ModelCard(text).data.to_dict() == found
    return found


def tokens(text: str) -> Any:
    body = re.sub(r"\A---\n.*?\n---\n", "", text, flags=re.DOTALL)
    return MarkdownIt("gfm-like", {"linkify": False}).parse(body)


def table(text: str, first: str) -> dict[str, list[str]]:
    """Cells of the table whose head begins with `first`, as they are shown."""
    rows: list[list[str]] = []
    for token in tokens(text):
        if token.type == "tr_open":
            rows.append([])
        if token.type == "inline" and rows and token.level > 3:
            rows[-1].append("".join(child.content for child in token.children))
    (head,) = [index for index, row in enumerate(rows) if row[0] == first]
    width = len(rows[head])
    heads = ("figure", "package", "pairs not trained on")
    found = {}
    for row in rows[head + 1 :]:
        if row[0] in heads:
            break
        assert len(row) == width
        found[row[0]] = row[1:]
    return found


def fenced(text: str, language: str) -> list[str]:
    return [
        token.content for token in tokens(text) if token.type == "fence" and token.info == language
    ]


def test_the_header_of_whole_weights() -> None:
    assert header(card(datasets=("org/pairs", "org/pairs"))) == {
        "base_model": "org/base-1.5B",
        "base_model_relation": "finetune",
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "datasets": ["org/pairs"],
        "tags": ["prefine", "preference-optimization", "dpo"],
    }


def test_the_header_of_an_adapter_on_a_folder() -> None:
    found = header(card(adapter=True, base_model="models/base", base_on_hub=False))
    assert found["library_name"] == "peft"
    assert "lora" in found["tags"]
    assert not {"base_model", "datasets"} & found.keys()
    assert "models/base" in card(base_model="models/base", base_on_hub=False)
    assert header(card(adapter=True))["base_model_relation"] == "adapter"


def test_figures_with_their_standard_errors() -> None:
    shown = table(card(), "figure")
    assert shown["margin"] == ["1.25", "0.125", "nats"]
    assert [value for name, value in shown.items() if name.startswith("accuracy")] == [
        ["0.9", "0.03", ""]
    ]
    assert [value for name, value in shown.items() if name.startswith("fall")] == [
        ["-2.5", "0.75", "nats"]
    ]
    assert shown["share of pairs beyond the budget"] == ["0.0625", "", ""]
    alone = SUMMARY.model_copy(
        update={"final": FINAL.model_copy(update={"margin_se": None, "beyond_budget": None})}
    )
    without = table(card(summary=alone), "figure")
    assert without["margin"] == ["1.25", "", "nats"]
    assert "share of pairs beyond the budget" not in without


def test_what_it_was_trained_on_and_with() -> None:
    text = card(
        datasets=("org/pairs",), summary=SUMMARY.model_copy(update={"stopped_by": "collapse"})
    )
    assert "90 preference pairs, 12 optimizer steps" in text
    assert table(text, "pairs not trained on") == {"empty_side": ["3"], "sides_coincide": ["7"]}
    assert table(text, "package") == {"prefine": ["0.1.0"], "torch": ["2.13.0+cpu"]}
    assert "`collapse`, ended it early" in text
    assert "ended it early" not in card()
    assert "pairs not trained on" not in card(dropped={})


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"loss": {"name": "ipo", "beta": 0.3}, "adapter": {"name": "lora"}},
        {
            "regularizer": {"name": "budget"},
            "regularizer_weight": {"schedule": "linear", "start": 0.0, "end": 1.0},
        },
    ],
)
def test_the_whole_configuration_can_be_trained_again(values: dict[str, Any]) -> None:
    (text,) = fenced(card(train=train(**values)), "yaml")
    assert TrainConfig.model_validate(yaml.safe_load(text)) == TrainConfig(**values)


@pytest.mark.parametrize("adapter", [True, False])
def test_the_code_to_load_it_is_python(adapter: bool) -> None:
    (code,) = fenced(card(adapter=adapter), "python")
    compile(code, "card", "exec")
    assert ("peft" in code) == adapter


@pytest.mark.parametrize("name", ["budget", "step_budget", "nll", None])
def test_the_paper_of_the_budget_is_cited_where_it_is_used(name: str | None) -> None:
    text = card(train=train(regularizer=name and {"name": name}))
    assert ("2411.05875" in "".join(fenced(text, "bibtex"))) == (name in ("budget", "step_budget"))


def _check_hostile(text: str, hostile: str) -> None:
    found = header(text)
    assert found.keys() <= {
        "base_model",
        "base_model_relation",
        "library_name",
        "pipeline_tag",
        "datasets",
        "tags",
    }
    assert all(re.fullmatch(r"[a-z0-9_-]+", tag) for tag in found["tags"])
    assert found["tags"][:2] == ["prefine", "preference-optimization"]
    parsed = tokens(text)
    kinds = [token.type for token in parsed] + [
        child.type for token in parsed for child in token.children or ()
    ]
    assert not {"link_open", "image", "html_inline"} & {*kinds}
    # The mark at the end is the only HTML.
    assert kinds.count("html_block") == 1
    assert [
        parsed[i + 1].content for i, token in enumerate(parsed) if token.type == "heading_open"
    ][1:] == [
        "Training",
        "Figures after training",
        "How to load it",
        "Versions",
    ]
    assert len(fenced(text, "yaml")) == len(fenced(text, "python")) == 1
    assert yaml.safe_load(fenced(text, "yaml")[0])["loss"]["note"] == hostile
    assert len(table(text, "pairs not trained on")) == len(table(text, "package")) == 1
    assert all(character.isprintable() or character == "\n" for character in text)
    assert is_ours(text)


def _hostile_card(text: str) -> str:
    return card(
        name=text,
        base_model=text,
        train={"loss": {"name": text, "note": text}, "regularizer": {"name": text}, text: text},
        dropped={text: 1},
        versions={text: text},
        datasets=(text,),
        summary=SUMMARY.model_copy(update={"stopped_by": text}),
    )


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_texts_are_only_texts(text: str) -> None:
    _check_hostile(_hostile_card(text), text)


@given(
    text=st.text(st.characters(codec="utf-8"), max_size=12)
    | st.text("`|\n-#<>[]()!:'\"\\&*_ ab", max_size=12)
)
@settings(derandomize=True, max_examples=150, deadline=None)
def test_any_text_is_only_a_text(text: str) -> None:
    _check_hostile(_hostile_card(text), text)


def test_a_code_span_shows_what_it_was_given() -> None:
    reason = "a|b `c` <i>"
    assert table(card(dropped={reason: 4}), "pairs not trained on") == {reason: ["4"]}


def test_keys_that_were_read_are_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", "sk-very-secret-key-1234")
    read_secret("MY_KEY")
    secret = "x/sk-very-secret-key-1234"
    text = card(
        name=secret, base_model=secret, datasets=(secret,), train={"reference": {"path": secret}}
    )
    assert "sk-very-secret-key-1234" not in text
    header(text)
    assert is_ours(text)


def written(folder: Path, text: str, *, previous: Path) -> bytes:
    folder.mkdir(exist_ok=True)
    write_card(folder, text, previous=previous)
    return (folder / "README.md").read_bytes()


def test_a_card_of_somebody_else_is_kept(tmp_path: Path) -> None:
    theirs = "# Base\n\n<!-- written by prefine, 0123456789abcdef -->\n"
    (tmp_path / "README.md").write_text(theirs, encoding="utf-8")
    assert foreign_card(tmp_path) == theirs.encode()
    assert written(tmp_path / "new", card(), previous=tmp_path) == theirs.encode()


def test_our_card_is_replaced_until_somebody_changes_it(tmp_path: Path) -> None:
    assert foreign_card(tmp_path) is None
    for name in ("one", "two"):
        assert written(tmp_path, card(name=name), previous=tmp_path) == card(name=name).encode()
        assert foreign_card(tmp_path) is None
    file = tmp_path / "README.md"
    file.write_text(card(name="two").replace("# two", "# Mine"), encoding="utf-8")
    # In another folder, too, it stays theirs.
    for folder, previous in (("new", tmp_path), ("newer", tmp_path / "new")):
        found = written(tmp_path / folder, card(name="three"), previous=previous)
        assert found == file.read_bytes()
    assert "# Mine" in file.read_text(encoding="utf-8")


def test_a_card_in_another_encoding_is_somebody_elses(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_bytes("# Mödel".encode("latin-1"))
    assert foreign_card(tmp_path) == "# Mödel".encode("latin-1")
    assert written(tmp_path / "new", card(), previous=tmp_path) == "# Mödel".encode("latin-1")
