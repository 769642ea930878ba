import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Literal

import pytest
from playwright.sync_api import BrowserContext

from browser import chromium, visit
from prefine.records import MetricValue
from prefine.report import outcome
from prefine.report.data import (
    AnswerExample,
    ItemPoint,
    LabelExample,
    ListedAnswer,
    ListExample,
    PairExample,
    ReportData,
    StageOrigin,
    TrainEnd,
)
from prefine.report.page import render, repeated_share
from prefine.report.svg import Scale, ticks
from prefine.report.text import duration, number, visible
from prefine.report.training import MAX_POINTS
from prefine.report.warnings import warnings_of
from report_fixture import BARE, EXPLOITED, REPORT, contest, training, win_rate

HOSTILE = (
    "<script>window.pwned=1</script>",
    "</script><script>window.pwned=1</script>",
    "</style><script>window.pwned=1</script>",
    "<img src=x onerror=window.pwned=1>",
    "<svg onload=window.pwned=1>",
    '" onmouseover="window.pwned=1',
    "{{7*7}} {% raw %}",
    "]]> <!-- &amp; -->",
    "a\u202eb\x00c\x1b[31m\ud800d",
    "</title></textarea><base href=https://example.org/>",
    "x" * 4000,
)


def hostile(text: str) -> ReportData:
    """The fixture with the text in every place that takes a text."""
    metric = MetricValue(name=text, value=12.5, interval=(1.0, 20.0), n=3, unit=text)
    step = REPORT.stages[0]
    counts = step.counts.model_copy(update={"failed": {text: 3}, "dropped": {text: 2}})
    rated = contest(text, "gold", win_rate(60, 55, 65), 5, 1, 2)
    return REPORT.model_copy(
        update={
            "title": text,
            "run_name": text,
            "policy": text,
            "baseline": text,
            "loss_name": text,
            "regularizer_name": text,
            "stages": (
                step.model_copy(
                    update={
                        "stage": text,
                        "takes": text,
                        "makes": text,
                        "counts": counts,
                        "notes": (text,),
                    }
                ),
            ),
            "contests": (rated,),
            "constraints": (REPORT.constraints[0].model_copy(update={"name": text}),),
            "metrics": (metric,),
            "examples": (
                AnswerExample(
                    prompt=text,
                    before=text,
                    after=text + "!",
                    gold_before={text: 0.5},
                    gold_after={text: 1.0},
                ),
            ),
            "pair_examples": (
                PairExample(prompt=text, chosen=text, rejected=text + "!", why=text),
            ),
            "list_examples": (
                ListExample(
                    prompt=text,
                    answers=(ListedAnswer(place=0, text=text, rank=1),),
                    size=2,
                    why=text,
                ),
            ),
            "label_examples": (LabelExample(prompt=text, answer=text, desirable=True),),
            "origins": (
                StageOrigin(
                    stage=text,
                    began_at=text,
                    command=(text,),
                    code_version=text,
                    commit=text,
                    inputs={text: text},
                    judge_prompt=text,
                ),
            ),
            "warnings": (text,),
            "config_yaml": text,
            "versions": {text: text},
        }
    )


class Reader(HTMLParser):
    """Collects the page's tags, attributes and text as a parser sees them."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def words(page: str) -> str:
    """The page's text with one plain space between words, and without marks against breaks."""
    return " ".join(Reader(page).text.replace("\u00a0", " ").replace("\u2060", "").split())


# What the page is allowed to be


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_is_text_and_nothing_else(text: str) -> None:
    page = render(hostile(text))
    reader = Reader(page)
    assert page.encode("utf-8")
    assert not {tag for tag, _ in reader.tags} & {
        "script",
        "img",
        "base",
        "iframe",
        "object",
        "link",
        "form",
        "textarea",
    }
    names = {name for _, attributes in reader.tags for name in attributes}
    assert "style" not in names
    assert not [
        name for name in names if name.startswith("on") or name in {"src", "srcdoc", "xlink:href"}
    ]
    links = [a["href"] or "" for tag, a in reader.tags if tag == "a"]
    assert links and all(link.startswith("#") for link in links)
    # title (twice), run, policy, baseline (twice), loss, regularizer, stage, takes, makes, reasons,
    # note, judge, constraint, metric (name and unit), example (three texts, gold twice), warning,
    # config, version (twice)
    assert reader.text.count(visible(text)) >= 25
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f\u202a-\u202e\u2066-\u2069\ud800-\udfff]", page)


def test_the_policy_allows_one_stylesheet_and_nothing_else() -> None:
    reader = Reader(render(REPORT))
    policies = [
        a["content"] or ""
        for _, a in reader.tags
        if a.get("http-equiv") == "Content-Security-Policy"
    ]
    assert len(policies) == 1
    assert policies[0].startswith("default-src 'none'; style-src 'sha256-")
    assert "unsafe" not in policies[0] and "http" not in policies[0]
    first_tags = [tag for tag, _ in reader.tags[:4]]
    assert first_tags == ["html", "head", "meta", "meta"], (
        "the policy comes before anything it governs"
    )


def test_visible_keeps_writing_and_shows_what_would_break_it() -> None:
    assert visible("naïve 雪 الشاي 👩‍🔬\tb\nc") == "naïve 雪 الشاي 👩‍🔬\tb\nc"
    assert visible("a\x00b\x7f\x85\ud800\uffff") == "a␀b␡���"
    assert visible("\u202eabc\u2066") == "⟨U+202E⟩abc⟨U+2066⟩"
    assert visible("a\r\nb\u2028c") == "a\nb\nc"


def test_every_picture_says_what_it_shows_and_every_table_has_headers() -> None:
    tags = Reader(render(REPORT)).tags
    pictures = [a for tag, a in tags if tag == "svg" and "class" in a and "aria-hidden" not in a]
    assert len(pictures) >= 20
    assert all(a.get("role") == "img" and a.get("aria-label") for a in pictures)
    assert all(a.get("scope") in {"col", "row"} for tag, a in tags if tag == "th")
    ids = [a["id"] for _, a in tags if "id" in a]
    assert len(ids) == len(set(ids))


def test_the_same_data_gives_the_same_page_and_a_small_one() -> None:
    assert render(REPORT) == render(ReportData.model_validate_json(REPORT.model_dump_json()))
    assert len(render(REPORT).encode()) < 1_000_000
    assert (
        len(render(REPORT.model_copy(update={"training": training(20_000)})).encode()) < 1_000_000
    )


# What it says


def test_the_numbers_of_the_run_are_on_the_page() -> None:
    text = words(render(REPORT))
    for piece in (
        "The trained model’s win rate is 81 % on 300 unseen prompts (95 % interval 77–85 %).",
        "9,540 completions",
        "41 failed: truncated",
        "117 dropped: tie",
        "11,873",
        "8 min 18 s",
        "4 repeated",
        "84.2 % (80.1–87.7 %)",
        "246 won, 13 tied, 41 lost",
        "According to gold “computed gold score”: 231 won, 25 tied, 44 lost",
        "Of 7 constraints, 5 better kept after training, 1 worse, 1 undecided.",
        "0.33 → 0.82",
        "▲ +0.49 0.44–0.54; better",
        "▼ −0.06 −0.11 to −0.01; worse",
        "+0.03 −0.02 to 0.08; undecided",
        "Mean length 18.3 tokens 17.7–18.9 tokens 21.9 tokens 21.2–22.6 tokens 300 ▲ +3.6 2.9–4.3 "
        "tokens; more",
        "Judge first slot rate 56.3 % 53.5–59.0 % 1,200",
        "6.21 nats ± 0.21 nats (standard error) 300",
        "budget, −delta = −5 nats",
        "the judge prefers after: P(after is better) = 0.94",
        "988 characters 97 % repeated",
        "3 pairs were longer than max_prompt_tokens and were not trained on",
        "torch 2.9.1",
        "Each point is the mean of 2 steps.",
    ):
        assert piece in text, piece
    assert outcome.EXPLOITED not in text
    order = [
        text.index(f"{name} 0.")
        for name in (
            "keyword",
            "count",
            "cheerful",
            "topic",
            "ordered words",
            "rhyme",
            "no repetition",
        )
    ]
    assert order == sorted(order), "most improved first"


@pytest.mark.parametrize(
    ("value", "low", "high", "opening", "rate", "interval"),
    [
        (81.2, 76.6, 85.3, "The trained model’s win rate is", "81 %", "77–85 %"),
        (52.1, 46.4, 57.7, "No clear difference: the trained model’s win rate is", "52 %",
         "46–58 %, which includes 50 %"),
        (41.0, 35.6, 46.6, "The trained model is worse: its win rate is only", "41 %", "36–47 %"),
        (55.6, 50.2, 61.0, "The trained model’s win rate is", "55.6 %", "50.2–61.0 %"),
    ],
)  # fmt: skip
def test_the_sentence_says_what_the_interval_allows(
    value: float, low: float, high: float, opening: str, rate: str, interval: str
) -> None:
    rated = contest("gold score", "gold", win_rate(value, low, high), 1, 1, 1)
    text = words(render(REPORT.model_copy(update={"contests": (rated,)})))
    assert f"{opening} {rate} on 300 unseen prompts (95 % interval {interval})." in text


def test_the_sentence_says_which_prompts() -> None:
    assert "on 300 prompts (95 %" in words(
        render(REPORT.model_copy(update={"prompts_also_trained_on": None}))
    )
    text = words(render(REPORT.model_copy(update={"prompts_also_trained_on": 12})))
    assert "on 300 prompts, 12 of which it was trained on (95 %" in text


@pytest.mark.parametrize(
    ("judge", "gold", "warned"),
    [
        ((91.0, 87.4, 94.0), (48.7, 43.0, 54.3), True),
        ((91.0, 87.4, 94.0), (31.0, 26.0, 36.0), True),
        ((91.0, 87.4, 94.0), (72.0, 66.0, 77.0), False),
        ((52.0, 46.0, 58.0), (48.7, 43.0, 54.3), False),
        ((40.0, 35.0, 45.0), (31.0, 26.0, 36.0), False),
    ],
)
def test_an_exploited_judge_is_called_one(
    judge: tuple[float, float, float], gold: tuple[float, float, float], warned: bool
) -> None:
    rated = (
        contest("j", "judge", win_rate(*judge), 1, 1, 1),
        contest("g", "gold", win_rate(*gold), 1, 1, 1),
    )
    text = words(render(REPORT.model_copy(update={"contests": rated})))
    # At the head of the page, and not again among the warnings.
    assert text.count(outcome.EXPLOITED) == warned


def test_the_warning_names_both_numbers_and_the_sentence_follows_gold() -> None:
    text = words(render(EXPLOITED))
    assert (
        "The judge “pairwise (playground judge)” says 91 % (87–94 %); gold “computed gold score” "
        "says 49 % (43–54 %)" in text
    )
    assert "No clear difference: the trained model’s win rate is 49 % on 300 unseen prompts" in text


def test_without_gold_or_interval_nothing_is_claimed_about_them() -> None:
    rate = MetricValue(name="win_rate", value=64.0, n=25, unit="%")
    text = words(
        render(REPORT.model_copy(update={"contests": (contest("j", "judge", rate, 16, 0, 9),)}))
    )
    assert (
        "The trained model’s win rate is 64 % on 25 unseen prompts (no interval was computed)."
        in text
    )
    assert outcome.EXPLOITED not in text


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("contests", (), "no contest between the trained model and the baseline was held"),
        ("delta_per", "token", "The budget is 5 nats per token"),
        ("delta", 500.0, "The budget line at −500 nats lies outside this picture."),
        ("training", training(1), "After 1 step the"),
        (
            "training",
            training(40, delta=None),
            "the chosen answers of the training pairs has changed by",
        ),
        ("examples", (AnswerExample(prompt="", before="", after="x"),), "an empty text"),
    ],
)
def test_missing_parts_are_said_to_be_missing(field: str, value: object, says: str) -> None:
    assert says in words(render(REPORT.model_copy(update={field: value})))


@pytest.mark.parametrize(
    ("field", "section"),
    [("contests", "contests"), ("training", "training"), ("examples", "examples"),
     ("stages", "pipeline"), ("constraints", "constraints"), ("metrics", "metrics"),
     ("warnings", "warnings")],
)  # fmt: skip
def test_a_section_without_data_is_left_out(field: str, section: str) -> None:
    assert f'id="{section}"' in render(REPORT)
    page = render(REPORT.model_copy(update={field: ()}))
    assert f'id="{section}"' not in page and f'href="#{section}"' not in page


def test_warnings_come_first_and_wall_time_and_calls_last() -> None:
    page = render(REPORT)
    places = [page.index(f'id="{name}"') for name in ("warnings", "training", "examples")]
    assert [*places, page.index('id="pipeline"')] == sorted([*places, page.index('id="pipeline"')])
    assert "Wall time 18 min 59 s in 5 stages; 22,673 calls, 4 repeated after a stop." in words(
        page
    )


def accuracy(name: str, value: float, low: float, high: float) -> MetricValue:
    return MetricValue(name=name, value=value, interval=(low, high), n=90, unit="%")


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [(55.7, 81.8, "more often than chance"), (20.0, 49.0, "less often than chance"),
     (48.0, 81.8, "undecided whether more often than chance")],
)  # fmt: skip
def test_without_a_contest_the_page_leads_with_what_held_out_pairs_say(
    low: float, high: float, said: str
) -> None:
    metrics = (
        accuracy("reward_accuracy", 70.0, low, high),
        accuracy("longer_is_better", 84.4, 72.1, 93.3),
    )
    text = words(render(REPORT.model_copy(update={"contests": (), "metrics": metrics})))
    assert (
        "It picks the preferred answer 70 % of the time; always taking the longer one gives 84 % "
        f"(95 % intervals {low:.0f}–{high:.0f} % and 72–93 %)." in text
    )
    assert f"On 90 held-out pairs, by the sign of the margin: {said}. No answers" in text


def test_a_run_that_stopped_says_so_first() -> None:
    stopped = REPORT.model_copy(
        update={
            "contests": (),
            "unfinished": "train",
            "stopped_by": "step 13: <loss> is nan",
            "training": training(12),
        }
    )
    text = words(render(stopped))
    assert "It stopped with: step 13: <loss> is nan" in text
    assert "This run has not finished: stage train began and did not end." in text
    assert "The same command goes on from here. Training reached 12 steps." in text


def test_a_run_with_nothing_still_has_a_page() -> None:
    text = words(render(BARE))
    assert (
        "Nothing is decided: no contest between the trained model and the baseline was held."
        in text
    )
    assert "Gold by constraint" not in text and "Other metrics" not in text


def test_nothing_is_said_of_a_change_without_its_interval() -> None:
    bare = tuple(one.model_copy(update={"change": None}) for one in REPORT.constraints)
    text = words(render(REPORT.model_copy(update={"constraints": bare})))
    assert "Of 7 constraints, 0 better kept after training, 0 worse, 7 without an interval." in text


def test_squares_show_what_the_rate_says_where_verdicts_are_probabilities() -> None:
    sure = contest("j", "judge", win_rate(62.0, 55.0, 69.0), 300, 0, 0)
    kinds = outcome.hundredths(sure)
    assert [kinds.count(kind) for kind in ("win", "tie", "loss")] == [62, 0, 38]
    text = words(render(REPORT.model_copy(update={"contests": (sure,)})))
    assert "300 won, 0 tied, 0 lost (P above, at and below 50 %)" in text


def test_a_share_beyond_the_budget_is_given_once() -> None:
    end = TrainEnd(
        chosen_change=-1.25, rejected_change=-9, margin=7.75, accuracy=0.811, fall=1.25,
        beyond_delta=0.203,
    )  # fmt: skip
    points = tuple(
        point.model_copy(update={"beyond_delta": 0.23, "accuracy": 0.9, "margin": 8.5})
        for point in REPORT.training
    )
    page = render(REPORT.model_copy(update={"training": points, "trained": end}))
    shown = dict(re.findall(r"<figcaption><span>(.*?)</span><b>(.*?)</b>", page))
    assert shown["Share of pairs beyond the budget"].replace("\u00a0", " ") == "20 %"
    assert shown["Accuracy: chosen over rejected"].replace("\u00a0", " ") == "81 %"
    assert shown["Margin"] == "7.75"


CUT = tuple(
    MetricValue(name=f"cut_answers_{when}", value=value, interval=(1.0, 99.0), n=20, unit="%")
    for when, value in (("before", 0.0), ("after", 95.0))
)
ALIKE = tuple(
    MetricValue(name=f"repeated_answers_{when}", value=value, interval=(1.0, 99.0), n=20, unit="%")
    for when, value in (("before", 2.0), ("after", 60.0))
)


@pytest.mark.parametrize(
    ("update", "said"),
    [
        ({"contests": EXPLOITED.contests}, outcome.EXPLOITED),
        (
            {"metrics": CUT},
            "0.0 % (interval 1.0–99.0 %) of the answers before training and 95.0 % (interval 1.0–"
            "99.0 %) after were cut",
        ),
        (
            {"metrics": ALIKE},
            "60.0 % (interval 1.0–99.0 %) of the answers after training are word for word",
        ),
        (
            {"training": (REPORT.training[0].model_copy(update={"loss": 0.69}),
                          REPORT.training[1].model_copy(update={"loss": 22e6}))},
            "The loss rose from 0.69 at step 1 to 22,000,000 at step 2: training has diverged",
        ),
        (
            {"training": (REPORT.training[0], REPORT.training[1].model_copy(
                update={"chosen_logp": -1.5e6, "chosen_change": -1.5e6 + 40.0}))},
            "The log-probability of the chosen answers fell from −40 to −1,500,000 nats at step "
            "2: the model no longer writes text",
        ),
        (
            {"training": (), "item_training": tuple(
                ItemPoint(step=step, figures={
                    "loss": 0.5, "desirable_logp": -40.0 - fell, "desirable_change": -fell})
                for step, fell in ((1, 0.0), (2, 1e6)))},
            "The log-probability of the chosen answers fell from −40 to −1,000,040 nats at step 2",
        ),
        (
            {"training": (), "item_training": (
                ItemPoint(step=1, figures={"loss": 0.7}), ItemPoint(step=2, figures={"loss": 90}))},
            "The loss rose from 0.70 at step 1 to 90 at step 2: training has diverged",
        ),
        (
            {"trained": TrainEnd(stopped_by="collapse", chosen_change=0, rejected_change=0,
                                 fall=0)},
            "The alarm “collapse” ended training after 200 steps.",
        ),
    ],
)  # fmt: skip
def test_warnings_have_their_numbers(update: dict[str, object], said: str) -> None:
    (warning,) = warnings_of(REPORT.model_copy(update=update))
    assert said in warning.replace("\u00a0", " ").replace("\u2060", "")


@pytest.mark.parametrize(
    ("low", "said"),
    [(-0.05, "−0.05 to 0.09; undecided"), (-0.004, "−0.004 to 0.090; undecided"),
     (0.0, "0.00–0.09; undecided"), (0.0004, "0.0004–0.0900; better")],
)  # fmt: skip
def test_a_bound_near_0_shows_its_side(low: float, said: str) -> None:
    one = REPORT.constraints[0]
    assert one.change is not None
    change = one.change.model_copy(update={"interval": (low, 0.09)})
    changed = one.model_copy(update={"change": change})
    assert said in words(render(REPORT.model_copy(update={"constraints": (changed,)})))


def test_a_healthy_run_has_no_warning() -> None:
    assert warnings_of(REPORT) == []
    few = tuple(one.model_copy(update={"value": 4.9}) for one in CUT)
    assert warnings_of(REPORT.model_copy(update={"metrics": few})) == []


# The small parts


def test_numbers_for_people() -> None:
    assert [number(v) for v in (0.0, 3.0, 1234.5, 45.67, 6.214, 0.0123, -2.5)] == [
        "0", "3", "1,234", "45.7", "6.21", "0.012", "−2.50",
    ]  # fmt: skip
    assert number(-0.001, 2, signed=True) == "0.00"
    assert number(0.4, 1, signed=True) == "+0.4"
    assert [duration(s) for s in (0.44, 9.96, 59.6, 200, 3600, 7500)] == [
        "0.4\u00a0s", "10\u00a0s", "1\u00a0min",
        "3\u00a0min 20\u00a0s", "1\u00a0h", "2\u00a0h 5\u00a0min",
    ]  # fmt: skip


def test_ticks_are_round_and_few() -> None:
    assert ticks(0, 1, 4) == [0.0, 0.5, 1.0]
    assert ticks(-17.3, 2.2, 7) == [-15.0, -10.0, -5.0, 0.0]
    assert ticks(1, 3, 5, whole=True) == [1.0, 2.0, 3.0]
    assert Scale(0, 200)(50) == "25.00%" and Scale(-10, 0, 100, 0)(-2.5) == "25.00%"


def test_a_hundred_squares_are_a_hundred() -> None:
    kinds = outcome.hundredths(contest("j", "gold", win_rate(50, 40, 60), 1, 1, 1))
    assert [kinds.count(kind) for kind in ("win", "tie", "loss")] == [34, 33, 33]
    assert render(REPORT).count('width="12" height="12"') == 100


def test_repetition_is_measured() -> None:
    assert repeated_share("too short to tell") is None
    assert repeated_share("a b c d e f g h i j k l") == 0
    assert repeated_share("a b c " * 4) == pytest.approx(0.7)


def test_repetition_is_measured_in_languages_without_spaces() -> None:
    once = "日本の四季はそれぞれに美しく、春には桜が咲き、夏には花火が夜空を彩ります。"
    assert repeated_share(once) == 0
    assert repeated_share(once * 4) == pytest.approx(1 - len(once) / (4 * len(once) - 7))
    assert repeated_share("とても短い文です。") is None
    assert repeated_share("الفصول الأربعة جميلة في اليابان وكل فصل له طابعه الخاص") == 0


def test_many_steps_are_averaged_to_few_points() -> None:
    page = render(REPORT.model_copy(update={"training": training(1000)}))
    assert "Each point is the mean of 9 steps." in words(page)
    assert page.count('<th scope="row">') - 6 - 2 - 7 == 112 <= MAX_POINTS


# In a browser


@pytest.fixture(scope="module")
def browser() -> Iterator[BrowserContext]:
    with chromium() as context:
        yield context


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 420])
@pytest.mark.parametrize("data", [REPORT, EXPLOITED, BARE], ids=["healthy", "exploited", "bare"])
def test_a_browser_opens_it_without_a_complaint(
    browser: BrowserContext,
    tmp_path: Path,
    data: ReportData,
    width: int,
    scheme: Literal["light", "dark"],
) -> None:
    path = tmp_path / "report.html"
    path.write_text(render(data), encoding="utf-8")
    with visit(browser, path, width=width, scheme=scheme) as seen:
        assert seen.page.evaluate("document.documentElement.scrollWidth") <= width
        assert (
            seen.page.evaluate("getComputedStyle(document.querySelector('.claim')).fontWeight")
            == "700"
        ), "styled"
        assert seen.requests == [path.as_uri()]
        assert seen.complaints == []


def test_hostile_texts_stay_visible_text_in_a_browser(
    browser: BrowserContext, tmp_path: Path
) -> None:
    path = tmp_path / "report.html"
    for text in HOSTILE:
        path.write_text(render(hostile(text)), encoding="utf-8")
        with visit(browser, path, width=420) as seen:
            assert seen.page.evaluate("window.pwned") is None
            assert seen.page.inner_text("h1") == visible(text)
            assert seen.page.inner_text(".answer.before .text") == visible(text)
            assert seen.page.title() == visible(text)
            assert seen.page.evaluate("document.documentElement.scrollWidth") <= 420
            assert (seen.requests, seen.complaints) == ([path.as_uri()], [])


def test_each_paragraph_runs_in_the_direction_of_its_own_language(
    browser: BrowserContext, tmp_path: Path
) -> None:
    path = tmp_path / "report.html"
    text = "日本語の一行。\nسطر بالعربية.\nA line in English."
    example = AnswerExample(prompt=text, before=text, after="نص عربي\nEnglish")
    path.write_text(render(REPORT.model_copy(update={"examples": (example,)})), encoding="utf-8")
    with visit(browser, path) as seen:
        sides = seen.page.evaluate(
            """() => [...document.querySelectorAll('.text')].map(box => {
                const range = document.createRange();
                range.selectNodeContents(box);
                const around = box.getBoundingClientRect();
                return [...range.getClientRects()].filter(line => line.width > 0).map(
                    line => line.left - around.left < 2 ? 'left'
                        : around.right - line.right < 2 ? 'right' : 'neither');
            })"""
        )
    assert sides == [["left", "right", "left"], ["left", "right", "left"], ["right", "left"]]


def test_pointing_at_a_step_reads_its_values(browser: BrowserContext, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text(render(REPORT), encoding="utf-8")
    with visit(browser, path) as seen:
        column = seen.page.locator(".main .hover").nth(50)
        reading = column.locator(".reading")
        assert reading.evaluate("e => getComputedStyle(e).opacity") == "0"
        column.locator("rect").hover()
        assert reading.evaluate("e => getComputedStyle(e).opacity") == "1"
        assert re.match(r"step 102\s*chosen −\d", reading.text_content() or "")


def test_a_long_answer_opens_from_the_keyboard(browser: BrowserContext, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text(render(REPORT), encoding="utf-8")
    with visit(browser, path, width=420) as seen:
        box = seen.page.locator("#t2after + .text")
        closed = box.evaluate("e => e.clientHeight")
        seen.page.locator("#t2after").focus()
        seen.page.keyboard.press("Space")
        assert box.evaluate("e => e.clientHeight") > closed
        assert box.evaluate("e => e.clientHeight == e.scrollHeight")


@pytest.mark.parametrize(
    ("fall", "said"),
    [
        (2.5, "the chosen answers fell by 2.50 nats per answer (95 % interval 2.30 to 2.70"),
        (-2.5, "the chosen answers rose by 2.50 nats per answer (95 % interval 2.30 to 2.70"),
    ],
)
def test_a_rise_is_called_one(fall: float, said: str) -> None:
    found = outcome.judge_budget(3.0, "nats per answer", fall, 0.2 / 1.96, count=90)
    sentence = outcome.budget_sentence(found).translate({0xA0: " ", 0x2060: None, 0x2013: " to "})
    assert said in sentence
