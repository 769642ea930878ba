"""The cards of what is published: figures with intervals, licences, and who wrote the rest."""

from huggingface_hub import ModelCard

from prefine.hub.cards import Licences, figures, model_repository_card
from report_fixture import REPORT

KNOWN = Licences(base="apache-2.0", data=None, stated=None)
USERS = "---\nlicense: mit\ntags: [mine]\n---\n# My model\n\nI wrote this.\n"


def test_every_figure_of_the_report_has_its_interval() -> None:
    rows = {row.name: row for row in figures(REPORT)}
    contest = REPORT.contests[0]
    row = rows[f"win rate against {REPORT.baseline} by the judge"]
    assert contest.role == "judge"
    assert contest.win_rate.interval is not None
    low, high = (f"{bound:.1f}" for bound in contest.win_rate.interval)
    assert (row.value, row.n) == (f"{contest.win_rate.value:.1f}\u00a0%", contest.win_rate.n)
    assert low in row.interval
    assert high in row.interval
    assert {f"gold {one.name}, after" for one in REPORT.constraints} <= rows.keys()


def test_a_users_card_keeps_its_text_and_its_licence() -> None:
    text = model_repository_card(USERS, REPORT, KNOWN, "org/base")
    card = ModelCard(text)
    assert (card.data.license, card.data.tags) == ("mit", ["mine"])
    assert card.data.base_model is None
    assert card.text.startswith("# My model\n\nI wrote this.\n\n## Figures of the run\n")
    assert "The base model's licence is `apache-2.0`, that of the data `unknown`." in card.text
    stated = Licences(base="apache-2.0", data=None, stated="cc0-1.0")
    assert ModelCard(model_repository_card(USERS, REPORT, stated, None)).data.license == "cc0-1.0"
