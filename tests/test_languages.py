"""The whole pipeline in Japanese and Arabic: texts stay what they are, no length counts spaces,
Arabic runs leftwards.
"""

import json
import re
import sys
from collections import defaultdict
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml

from browser import chromium, visit
from command import prefine
from openai_server import Choice, OpenAIServer, Reply, texts
from phrase_model import save_phrase_model
from prefine.report.text import visible

PROMPTS = [
    "日本の四季について短く説明してください。",
    "「侘び寂び」とは何ですか？　一文で。",
    "Pythonの`list`と｢ﾀﾌﾟﾙ｣の違いは？👩‍👩‍👧‍👦",
    "次の行を直して：\u2028か\u3099くせい１２３％",
    "اشرح لي الفصول الأربعة بإيجاز.",
    "ما معنى كلمة «寿司» بالعربية؟",
    "مَرْحَبًا! كم عدد أيام الأسبوع؟ ٧ أم 8؟\u200f",
    "اكتب جملة واحدة عن البحر\nثم سطرًا ثانيًا.",
]
UNSEEN = [
    "富士山の高さは？",
    "ما هي عاصمة اليابان؟",
    "翻訳して：السلام عليكم 👋🏽",
    "صف القهوة بكلمتين.",
]
PHRASES = [
    "春は桜が咲きます。",
    "夏は暑いです。",
    "👍🏽",
    "\n",
    "الربيع جميل ",
    "والصيف حار. ",
    "٣",
    "ﾊﾝｶｸ　",
]

ANSWERS = {
    "Japanese": [
        "春は桜、夏は花火、秋は紅葉、冬は雪。日本の四季はそれぞれ美しい。",
        "四季があります。\u2028一行では足りません。",
        "ﾊﾝｶｸと全角：ＡＢＣ　か\u3099ぎ👨‍👩‍👧。",
        "دقيقة：これは混在した文です。",
    ],
    "Arabic": [
        "الفصول أربعة: الربيع والصيف والخريف والشتاء.",
        "لا أعرف\u200c الجواب؛ هل تقصد ٣ أم 4؟",
        "السَّماءُ زَرقاءُ ـــ 🌊",
        "سطر أول\u2029سطر ثانٍ، ثم 日本語.",
    ],
}

JUDGE = """
def native(prompt, completion):
    arabic = any(0x600 <= ord(c) < 0x700 for c in prompt.text)
    script = range(0x600, 0x700) if arabic else range(0x3000, 0xA000)
    return sum(ord(c) in script for c in completion.text) / max(len(completion.text), 1)
"""


def language(prompt: str) -> str:
    return "Arabic" if re.search("[\u0600-\u06ff]{3}", prompt) else "Japanese"


def server(request: dict[str, Any], number: int) -> Reply:
    """One model answers in the prompt's language, the other judges: the candidate with more
    characters is better.
    """
    asked = request["messages"][0]["content"]
    if request["model"] == "writer":
        return Reply(texts(*ANSWERS[language(asked)][: request["n"]]))
    first, second = re.findall(r"<answer-[AB]-\w+>\n(.*?)\n</answer-[AB]-", asked, re.DOTALL)
    said = "A" if len(first) > len(second) else "B"
    return Reply([Choice(said, first_logps={said: -0.1, "BA"[said == "B"]: -2.4})])


class Texts(HTMLParser):
    """The texts of prompts and answers on the page, with their attributes."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.found: list[str] = []
        self.directions: list[str | None] = []
        self._inside = False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "mark":  # changed words, within a text
            return
        self._inside = ("class", "text") in attrs
        if self._inside:
            self.found.append("")
            self.directions.append(dict(attrs).get("dir"))

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.found[-1] += data

    def handle_endtag(self, tag: str) -> None:
        self._inside &= tag == "mark"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The folder of a run from prompts to report."""
    place = tmp_path_factory.mktemp("languages")
    for name, prompts in (("prompts.jsonl", PROMPTS), ("unseen.jsonl", UNSEEN)):
        lines = [json.dumps({"prompt": prompt}, ensure_ascii=False) + "\n" for prompt in prompts]
        (place / name).write_text("".join(lines), encoding="utf-8")
    (place / "native_judge.py").write_text(JUDGE)
    policy = {"name": "hf", "path": str(save_phrase_model(place / "方針-سياسة", PHRASES))}
    sys.path.insert(0, str(place))
    try:
        with OpenAIServer(server) as at:
            model = {"name": "openai", "base_url": at.url, "timeout_s": 10}
            config = {
                "run_dir": str(place / "実行"),
                "policy": policy,
                "prompts": {"name": "file", "path": str(place / "prompts.jsonl")},
                "sample": {
                    "model": {**model, "model": "writer"},
                    "completions_per_prompt": 4,
                    "max_new_tokens": 64,
                },
                "rank": {"judge": {"name": "pairwise", "model": {**model, "model": "judge"}}},
                "train": {
                    "adapter": {"name": "lora", "rank": 4},
                    "regularizer": {"name": "budget", "delta": 1.0},
                    "pairs_per_step": 4,
                    "epochs": 3,
                    "learning_rate": 1e-3,
                },
                "evaluate": {
                    "prompts": {"name": "file", "path": str(place / "unseen.jsonl")},
                    "judge": {"name": "native_judge:native"},
                },
                "report": {"title": "四季と الفصول"},
            }
            (place / "run.yaml").write_text(
                yaml.safe_dump(config, allow_unicode=True), encoding="utf-8"
            )
            result = prefine("run", str(place / "run.yaml"))
            assert result.code == 0, result.err
        yield place / "実行"
    finally:
        sys.path.remove(str(place))
        sys.modules.pop("native_judge", None)


def table(run: Path, name: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(run / name).to_pylist()
    return rows


def test_texts_survive_to_the_byte(run: Path) -> None:
    found = defaultdict(set)
    for row in table(run, "completions"):
        (message,) = json.loads(row["prompt"])["messages"]
        found[message["content"]].add(row["text"])
    assert found == {prompt: set(ANSWERS[language(prompt)]) for prompt in PROMPTS}
    pairs = table(run, "pairs")
    assert {row["prompt"][0]["content"] for row in pairs} == set(PROMPTS)
    for row in pairs:
        answers = ANSWERS[language(row["prompt"][0]["content"])]
        assert row["chosen"][0]["content"] == max(answers, key=len), (
            "the judge saw the texts as they are"
        )
        assert row["rejected"][0]["content"] in answers


def outcomes(run: Path) -> list[dict[str, Any]]:
    text = (run / "evaluation" / "outcomes.jsonl").read_bytes().decode("utf-8")
    return [json.loads(line) for line in text.rstrip("\n").split("\n")]


def test_answers_and_lengths_are_those_of_the_models(run: Path) -> None:
    """Lengths in characters and in tokens, whatever stands for a space."""
    rows = outcomes(run)
    assert {row["prompt"] for row in rows} == set(UNSEEN)
    figures = {
        m["name"]: m
        for m in json.loads((run / "metrics.json").read_text(encoding="utf-8"))["metrics"]
    }
    for side, folder in (("before", "baseline"), ("after", "trained")):
        drawn = table(run, f"evaluation/{folder}")
        texts_drawn = sorted(row["text"] for row in drawn)
        assert texts_drawn == sorted(row[side] for row in rows)
        assert any(phrase in text for text in texts_drawn for phrase in PHRASES)
        characters = sum(map(len, texts_drawn)) / len(drawn)
        assert figures[f"mean_length_{side}"]["value"] == pytest.approx(characters)
        assert figures[f"mean_length_{side}"]["unit"] == "characters"
        tokens = sum(len(row["token_ids"]) for row in drawn) / len(drawn)
        assert figures[f"mean_tokens_{side}"]["value"] == pytest.approx(tokens)
        assert figures[f"mean_tokens_{side}"]["unit"] == "tokens"
        assert tokens < characters, "a phrase is one token"


def test_training_read_every_byte(run: Path) -> None:
    """The policy reads bytes, so the tokens of an answer are its UTF-8 bytes and the stop
    token, but for phrases.
    """
    final = json.loads((run / "train_final.json").read_text())["final"]
    assert final["pairs"] == len(PROMPTS)
    assert final["margin"] > 0


def test_the_page_shows_the_texts_with_their_own_direction(run: Path) -> None:
    page = (run / "report.html").read_text(encoding="utf-8")
    shown = Texts(page)
    rows = outcomes(run)
    expected = [
        visible(text)
        for row in rows
        for text in (row["prompt"], row["before"], row["after"])
        if text
    ]
    # The examples are chosen; every prompt is one of them here.
    assert sorted(shown.found) == sorted(expected)
    assert set(shown.directions) == {"auto"}
    for row in rows:
        for side in ("before", "after"):
            assert re.search(rf"\b{len(row[side])} characters?\b", page)


def test_arabic_runs_from_right_to_left_in_a_browser(run: Path) -> None:
    """Each paragraph by its own first letter, so that a text of both languages reads right in
    both.
    """
    with chromium() as context, visit(context, run / "report.html", width=1000) as seen:
        sides = seen.page.evaluate(
            """() => [...document.querySelectorAll('.text')].map(box => {
                const range = document.createRange();
                range.selectNodeContents(box);
                const line = range.getClientRects()[0], around = box.getBoundingClientRect();
                const left = line.left - around.left < 2, right = around.right - line.right < 2;
                return [box.textContent, left, right];
            })"""
        )
        assert seen.complaints == []
    checked = set()
    for text, at_left, at_right in sides:
        letter = re.search(
            "[\u0600-\u06ff]|[\u3040-\u9fff\uff66-\uff9f]|[A-Za-z]", text.split("\n")[0]
        )
        if letter is None:
            continue
        arabic = "\u0600" <= letter[0] <= "\u06ff"
        checked.add(arabic)
        assert at_right if arabic else at_left, f"{text!r} is on the wrong side"
    assert checked == {True, False}
