"""The foot of the page says where results come from, its head what came out."""

import re
from html import unescape

import pytest

from prefine.report import outcome
from prefine.report.data import EvaluationPoint, PairExample, ReportData, StageOrigin
from prefine.report.page import render
from prefine.report.provenance import provenance
from report_fixture import BARE, REPORT, contest, win_rate

SAMPLE = StageOrigin(
    stage="sample",
    began_at="2026-11-29T09:12:19Z",
    command=("prefine", "run", "my run.yaml"),
    code_version="0.1.0",
    commit="0123456789abcdef0123456789abcdef01234567-dirty",
    seed=3,
    inputs={"prompts": "dd8cf82ecdf910c7"},
    outputs={"completions": "f304a92ee25e2240"},
)
RANK = SAMPLE.model_copy(
    update={
        "stage": "rank",
        "began_at": "2026-11-29T09:31:00Z",
        "seed": 0,
        "judge_prompt": "Which is better?\n<b>\n[first]",
        "outputs": {},
    }
)


def words(page: str) -> str:
    text = unescape(re.sub(r"<[^>]*>", "", page)).replace("\u00a0", " ").replace("\u2060", "")
    return " ".join(text.split())


def with_origins(*origins: StageOrigin) -> ReportData:
    return REPORT.model_copy(update={"origins": origins})


def test_the_foot_has_date_command_code_seeds_hashes_and_the_judges_question() -> None:
    page = render(with_origins(SAMPLE, RANK))
    foot = page[page.index('id="provenance"') :]
    for piece in (
        "Begun2026-11-29 09:12 UTC (sample)2026-11-29 09:31 UTC (rank)",
        "Commandprefine run 'my run.yaml' ",
        "prefine0.1.0, commit 0123456789ab, with uncommitted changes",
        "Seedssample 3 rank 0",
        "samplereadpromptsdd8cf82ecdf910c7",
        "samplemadecompletionsf304a92ee25e2240",
        "The judge’s question (rank)Which is better? <b> [first]",
        "Configuration",
        "torch 2.9.1",
    ):
        assert piece in words(foot), piece
    assert re.search(r"<details><summary>The judge’s question \(rank\)</summary><pre", foot)


def test_what_earlier_versions_did_not_store_is_left_out() -> None:
    found = provenance(with_origins(StageOrigin(stage="pair", code_version="0.1.0")))
    assert found is not None
    assert found.facts == [("prefine", ["0.1.0"])]
    assert (found.seeds, found.hashes, found.prompts) == ([], [], [])
    assert provenance(BARE) is None
    assert 'id="provenance"' not in render(BARE)


GOLD = "according to gold “g”"


@pytest.mark.parametrize(
    ("rate", "fall", "line"),
    [
        ((81.0, 76.0, 85.0), (2.0, 0.5),
         f"Better: the trained model beats initial {GOLD}, and the budget was kept on held-out "
         "answers."),
        ((31.0, 26.0, 36.0), (9.0, 0.5),
         f"Worse: the trained model loses to initial {GOLD}, and the budget was exceeded on "
         "held-out answers."),
        ((52.0, 46.0, 58.0), (5.0, 0.5),
         f"Undecided: neither model is clearly better {GOLD}, and whether the budget was kept is "
         "undecided on held-out answers."),
        ((81.0, 76.0, 85.0), None,
         f"Better: the trained model beats initial {GOLD}; nothing is known of the budget on "
         "held-out answers."),
    ],
)  # fmt: skip
def test_one_line_gives_the_verdict_on_contest_and_budget(
    rate: tuple[float, float, float], fall: tuple[float, float] | None, line: str
) -> None:
    points = () if fall is None else (evaluated(100, fall),)
    data = REPORT.model_copy(
        update={
            "contests": (contest("g", "gold", win_rate(*rate), 1, 1, 1),),
            "evaluations": points,
            "delta": 5.0,
        }
    )
    assert outcome.verdict_line(data) == line
    assert f'<p class="verdict" dir="auto">{line}</p>' in render(data)
    without = outcome.verdict_line(data.model_copy(update={"delta": None}))
    assert "budget" not in without and without.endswith(f"{GOLD}.")
    assert outcome.verdict_line(data.model_copy(update={"contests": ()})) == ""


def evaluated(step: int, fall: tuple[float, float] = (0.0, 0.1)) -> EvaluationPoint:
    return EvaluationPoint(
        step=step, pairs=40, loss=0.6, margin=1.0, accuracy=0.7, chosen_change=-fall[0],
        rejected_change=-5.0, fall=fall[0], fall_se=fall[1], top_mass=0.345 + step / 1e5,
        top_entropy_renormalised=2.2 + step / 1e3,
    )  # fmt: skip


def test_a_chart_says_its_title_and_its_unit_once() -> None:
    page = render(REPORT.model_copy(update={"evaluations": (evaluated(0), evaluated(100))}))
    charts = re.findall(r'<figure class="(?:small|main)">.*?</figure>', page, re.S)
    found = {}
    for chart in charts:
        caption = words(re.findall(r"<figcaption>\s*<span[^>]*>(.*?)</span>", chart, re.S)[0])
        axis = words(re.findall(r'class="axis-title">(.*?)</text>', chart)[0])
        ticks = [words(one) for one in re.findall(r'class="tick end">(.*?)</text>', chart)]
        found[caption] = axis
        assert not any("%" in tick for tick in ticks), caption
        assert len(set(ticks)) == len(ticks) > 0, caption
    assert found == {
        "Log-probability, change since step 0": "nats per answer",
        "Share of pairs beyond the budget": "%",
        "Accuracy: chosen over rejected": "%",
        "Margin": "nats",
        "Loss": "",
        "Gradient norm": "",
        "Entropy among likely tokens": "bits",
        "Probability of likely tokens": "%",
    }


def test_pairs_are_shown_with_changed_words_marked() -> None:
    pair = PairExample(
        prompt="what is full ?",
        chosen="the blue cup is full .",
        rejected="the red cup is full .",
        p_chosen=0.75,
        gap=2.5,
        why="largest gap",
    )
    page = render(BARE.model_copy(update={"pair_examples": (pair,)}))
    text = words(page[page.index('id="pairs"') :])
    assert "Pair 1 largest gapwhat is full ? score gap 2.50; P(chosen is better) = 0.75" in text
    assert '<mark class="before">red</mark>' in page and '<mark class="after">blue</mark>' in page
    assert 'id="pairs"' not in render(BARE) and 'href="#pairs"' in page


def test_a_figure_with_a_best_value_has_it_in_its_row() -> None:
    rows = re.findall(r"<tr>.*?</tr>", render(REPORT), re.S)
    (length,) = [words(row) for row in rows if "Mean length" in row]
    assert length.endswith("more none")
    cut = [
        one.model_copy(update={"name": one.name.replace("mean_length", "cut_answers")})
        for one in REPORT.metrics
    ]
    page = render(REPORT.model_copy(update={"metrics": tuple(cut)}))
    (row,) = [words(one) for one in re.findall(r"<tr>.*?</tr>", page, re.S) if "Cut answers" in one]
    assert row.endswith("more 0 %")


def test_a_stage_that_did_not_end_claims_no_counts() -> None:
    page = render(REPORT.model_copy(update={"unfinished": "evaluate"}))
    station = words(page.split('<li class="station">')[5].split("</li>")[0])
    assert station.startswith("evaluate not finished time")
