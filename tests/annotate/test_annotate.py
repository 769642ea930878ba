"""`prefine annotate`: blind questions, queues, files, figures, and a person at a terminal."""

import hashlib
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from annotator import (
    Annotator,
    Answers,
    annotate_until_killed,
    completion_of,
    judged_on,
    make_run,
    prompt_of,
    question_on,
    verdict_rows,
)
from command import prefine
from prefine.annotate.questions import Texts, read_questions
from prefine.annotate.queues import Order, Queue
from prefine.annotate.session import Session
from prefine.annotate.verdict_file import VerdictFile
from prefine.errors import ConfigError, DataError
from prefine.run.folder import RunFolder
from prefine.run.view import RunView
from run_place import CONFIG, DATA, LIMIT, OK, jsonl

INTERRUPTED = 6
HOSTILE = "\x1b[2J\x1b]0;taken\x07evil\u202e"


def judged(number: int, p: float, other: float | None = None) -> Answers:
    """Answers that name their side, with the judge's verdicts."""
    return Answers(f"old {number}", f"new {number}", (p, p if other is None else other))


def files(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and "annotations" not in path.parts
    }


def session(run: Path, name: str = "anna", queue: Queue = "random", seed: int = 0) -> Session:
    view = RunView(run)
    file = VerdictFile(run / "annotations", name)
    return Session(
        read_questions(view, "evaluation"),
        Texts(view, "evaluation"),
        file,
        scope="evaluation",
        queue=queue,
        seed=seed,
    )


def number_asked(one: Session) -> int:
    asked = one.asked()
    assert asked is not None
    return int(asked.prompt.text.split()[1].rstrip("."))


def answer(one: Session, prefers: str | None) -> int:
    """Prefer `old`, `new` or a tie; None skips. The number of the question is returned."""
    number = number_asked(one)
    asked = one.asked()
    assert asked is not None
    first = 1.0 if prefers is not None and asked.first.text.startswith(prefers) else 0.0
    one.answer(asked, None if prefers is None else 0.5 if prefers == "tie" else first)
    return number


# --- questions and queues


def test_what_the_judge_said_of_a_question(tmp_path: Path) -> None:
    answers = [
        judged(0, 0.9, 0.7),
        judged(1, 1.0, 0.0),
        Answers("old", "new", (1.0, None)),
        Answers("same", "same", (0.5, 0.5)),
        Answers("old", "new", (0.8, 0.6), gold=(0.9, 0.1)),
    ]
    found = {
        one.prompt_id: one
        for one in read_questions(RunView(make_run(tmp_path / "run", answers)), "evaluation")
    }
    ordered = [found[prompt_of(number).id] for number in range(5)]
    assert [one.p_one for one in ordered] == [
        pytest.approx(0.8),
        0.5,
        None,
        0.5,
        pytest.approx(0.7),
    ]
    # Both orders name different winners, or gold another one than the judge.
    assert [one.disagreement for one in ordered] == [0, 1, 0, 0, pytest.approx(0.8)]
    assert [one.same for one in ordered] == [False, False, False, True, False]


def test_the_order_of_each_queue(tmp_path: Path) -> None:
    p = [(0.9, 0.9), (0.55, 0.55), (0.0, 1.0), (0.7, 0.4), (0.2, 0.2), (None, None)]
    answers = [Answers(f"old {n}", f"new {n}", one) for n, one in enumerate(p)]
    run = make_run(tmp_path / "run", [*answers, Answers("same", "same", (0.5, 0.5))])
    order = Order(read_questions(RunView(run), "evaluation"), seed=3)

    def numbers(queue: Queue) -> list[int]:
        judged: list[str] = []
        found = []
        while (pick := order.next(queue, judged, judged, None)).question is not None:
            judged.append(pick.question.id)
            found.append(next(n for n in range(7) if prompt_of(n).id == pick.question.prompt_id))
        return found

    # Two are at .5 over both orders; the random order decides between them, and equal answers and
    # what the judge failed on are not in it.
    assert numbers("uncertain")[0] == 2
    assert numbers("uncertain")[1:] in ([1, 3, 4, 0], [3, 1, 4, 0])
    assert numbers("disagree") == [2, 3]
    at_random = numbers("random")
    assert sorted(at_random) == list(range(7))
    assert at_random == numbers("random")
    other = Order(read_questions(RunView(run), "evaluation"), seed=4)
    assert [one.id for one in other.random] != [one.id for one in order.random]


def test_mixed_takes_turns_and_says_which_queue_asked(tmp_path: Path) -> None:
    answers = [judged(n, 1.0, 0.0 if n < 4 else 1.0) for n in range(20)]
    run = make_run(tmp_path / "run", answers)
    one = session(run, queue="mixed")
    for _ in range(14):
        answer(one, "new")
    rows = [row for row in verdict_rows(run / "annotations" / "anna.jsonl") if not row["carried"]]
    queues = [row["queue"] for row in rows]
    assert queues[::2] == ["random"] * 7
    targeted = queues[1::2]
    assert set(targeted) <= {"disagree", "uncertain"}
    assert targeted == sorted(targeted), "what judges disagree on comes first"
    assert len({row["prompt_id"] for row in rows}) == 14


def test_the_random_sample_keeps_what_other_queues_have_asked_before(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", [judged(n, 0.5 + n / 100) for n in range(30)])
    one = session(run, queue="uncertain")
    before = [answer(one, "new") for _ in range(10)]
    assert before == list(range(10))
    assert not one.verdicts.sampled
    one._file.__exit__()
    one = session(run, queue="random")
    asked = [answer(one, "old") for _ in range(12)]
    assert not set(asked) & set(before), "nothing is asked twice"
    order = [question.id for question in one._order.random]
    reached = order.index(next(iter(reversed(one.verdicts.asked)))) + 1
    carried = [row for row in one._file.rows if row.carried]
    assert one.verdicts.sampled >= set(order[:reached])
    assert 12 + len(carried) == len(one.verdicts.sampled)
    assert {row.queue for row in carried} == {"random"}
    assert all(row.p_first in (0.0, 1.0) for row in carried)


def test_sides_are_tossed_by_annotator_and_question(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", [judged(n, 0.5) for n in range(60)])

    def sides(name: str) -> dict[str, str]:
        one = session(run, name)
        found = {}
        while (asked := one.asked()) is not None:
            found[asked.prompt.text] = asked.first.text.split()[0]
            one.answer(asked, 0.5)
        one._file.__exit__()
        return found

    anna, ben = sides("anna"), sides("ben")
    assert 18 <= sum(side == "new" for side in anna.values()) <= 42
    assert 18 <= sum(anna[key] == ben[key] for key in anna) <= 42
    (run / "annotations" / "anna.jsonl").unlink()
    assert sides("anna") == anna
    first = verdict_rows(run / "annotations" / "anna.jsonl")[0]
    prompt = next(prompt_of(n) for n in range(60) if prompt_of(n).id == first["prompt_id"])
    number = prompt.text.split()[1].rstrip(".")
    shown = completion_of(prompt, f"{anna[prompt.text]} {number}", "after")
    other = completion_of(prompt, f"{anna[prompt.text]} {number}", "before")
    assert first["first"] in (shown.id, other.id)


def test_going_back_keeps_the_verdict_until_there_is_another(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", [judged(n, 0.5) for n in range(9)])
    one = session(run)
    assert not one.back()
    asked = [answer(one, said) for said in ("new", "tie", None)]
    rows = len(one._file.rows)
    waiting = number_asked(one)
    assert one.back()
    assert number_asked(one) == asked[2]
    assert one.back()
    assert number_asked(one) == asked[1]
    shown = one.asked()
    assert shown is not None
    assert (shown.again, shown.before) == (True, 0.5)
    assert len(one._file.rows) == rows
    answer(one, "old")
    assert number_asked(one) == waiting
    assert sorted(one.verdicts.known().values()) == [0, 1]
    assert one.judged == 2


# --- files


def test_a_file_has_one_writer_and_a_torn_row_is_dropped(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", [judged(n, 0.5) for n in range(5)])
    one = session(run)
    answer(one, "new")
    with pytest.raises(ConfigError, match=r"another process annotates as anna; .* --annotator"):
        VerdictFile(run / "annotations", "anna")
    VerdictFile(run / "annotations", "ben").__exit__()
    one._file.__exit__()
    path = run / "annotations" / "anna.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole + whole[:40])
    with VerdictFile(run / "annotations", "anna") as file:
        assert len(file.rows) == 1
    assert path.read_bytes() == whole
    path.write_bytes(whole + b'{"schema_version": 1}\n')
    with pytest.raises(DataError, match=r"anna.jsonl:2: no verdict of a person \(judge: Field"):
        VerdictFile(run / "annotations", "anna")
    path.write_bytes(whole.replace(b'"schema_version":1', b'"schema_version":9'))
    with pytest.raises(DataError, match="schema version 9, this prefine reads 1"):
        VerdictFile(run / "annotations", "anna")
    path.write_bytes(whole)
    copy = run / "annotations" / "copy.jsonl"
    copy.write_bytes(whole)
    with pytest.raises(DataError, match=r"holds verdicts of human:anna, not of human:copy"):
        VerdictFile(run / "annotations", "copy")
    found = prefine("annotate", str(run), "--summary")
    assert found.code == DATA
    assert "copy.jsonl: verdicts of human:anna, which another file here holds" in found.err


@pytest.mark.parametrize("name", ["", "../anna", ".hidden", "a b", "a" * 65, "ä"])
def test_names_that_are_no_files(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="--annotator"):
        VerdictFile(tmp_path, name)


# --- figures


def annotated(tmp_path: Path, answers: list[Answers], said: Callable[[int], str | None]) -> Path:
    run = make_run(tmp_path / "run", answers)
    one = session(run)
    while one.asked() is not None:
        answer(one, said(number_asked(one)))
    one._file.__exit__()
    return run


def summary(*arguments: str) -> dict[str, Any]:
    found = prefine("annotate", *arguments, "--summary", "--json")
    assert found.code == OK, found.err
    value: dict[str, Any] = json.loads(found.out)
    return value


def test_figures_of_two_annotators(tmp_path: Path) -> None:
    answers = [judged(n, 1.0 if n % 4 else 0.0) for n in range(40)]
    run = annotated(tmp_path, answers, lambda n: None if n == 7 else "new" if n % 2 else "old")
    other = session(run, "ben")
    for _ in range(10):
        answer(other, "new")
    other._file.__exit__()
    before = files(run)
    found = summary(str(run))
    assert files(run) == before
    anna, ben = found["annotators"]
    assert anna == {
        "judge": "human:anna",
        "judged": 39,
        "ties": 0,
        "skipped": 1,
        "queues": {"random": 40},
    }
    assert (ben["judge"], ben["judged"]) == ("human:ben", 10)
    with_judge = found["agreements"][0]
    assert with_judge["raters"] == ["human:anna", "judge"]
    # The judge names `new` on 30 of 40; anna on the odd ones but 7, where she agrees, and on the
    # multiples of 4.
    assert with_judge["agreement"]["value"] == pytest.approx(100 * 29 / 39)
    assert [one["raters"] for one in found["agreements"]][2] == ["human:anna", "human:ben"]
    rate = found["win_rate"]
    # 29 by anna alone (or 30), 10 by both.
    assert rate["labels_only"]["n"] in (39, 40)
    assert rate["worth"] == 0
    assert rate["adds_nothing"], "all are labelled, so nothing is left to the judge"


def test_the_judge_helps_where_it_is_good_and_not_where_it_is_not(tmp_path: Path) -> None:
    rng = random.Random(5)
    truth = [rng.random() < 0.6 for _ in range(300)]

    def run(name: str, p: Callable[[bool], float], queue: Queue = "random") -> Path:
        path = make_run(tmp_path / name, [judged(n, p(won)) for n, won in enumerate(truth)])
        one = session(path, queue=queue)
        for _ in range(60):
            answer(one, "new" if truth[number_asked(one)] else "old")
        one._file.__exit__()
        return path

    good = run("good", lambda won: (0.9 if won else 0.2) if rng.random() < 0.9 else 0.5)
    found = summary(str(good), "--half-width", "10")["win_rate"]
    assert found["adds_nothing"] is False
    assert found["worth"] > 60
    low, high = found["prediction_powered"]["interval"]
    assert low < 100 * sum(truth) / 300 < high
    assert high - low < found["labels_only"]["interval"][1] - found["labels_only"]["interval"][0]
    assert found["prediction_powered"]["n"] == 60
    assert found["judge_only"]["n"] == 300
    assert found["labels_needed"] == 0
    text = prefine("annotate", str(good), "--summary", "--half-width", "6").out
    assert f"the judge is worth {found['worth']:,.0f} labels" in text
    assert "for ± 6 points: about" in text

    useless = run("useless", lambda won: rng.random())
    text = prefine("annotate", str(useless), "--summary").out
    assert "this judge adds nothing" in text
    assert "worth" not in text

    chosen = run("chosen", lambda won: rng.random(), "uncertain")
    found = summary(str(chosen))["win_rate"]
    assert (found["labels_only"], found["prediction_powered"]) == (None, None)
    assert found["why_not"].startswith("no label of the random queue; other queues choose by")
    assert "human:anna and the judge agree on" in prefine("annotate", str(chosen), "--summary").out


def test_few_labels_and_answers_that_are_gone(tmp_path: Path) -> None:
    run = annotated(tmp_path, [judged(n, 0.9) for n in range(12)], lambda n: "new")
    rows = (run / "annotations" / "anna.jsonl").read_bytes()
    found = prefine("annotate", str(run), "--summary")
    said = " ".join(found.out.split())
    assert "12 labels with a verdict of the judge; an estimate needs 20 or more" in said
    again = make_run(tmp_path / "again", [judged(n + 1, 0.9) for n in range(12)])
    (again / "annotations").mkdir()
    (again / "annotations" / "anna.jsonl").write_bytes(rows)
    found = prefine("annotate", str(again), "--summary")
    assert "12 verdicts are on answers that this run does not have" in " ".join(found.out.split())


# --- the judge `recorded`


def test_a_new_run_ranks_by_verdicts_of_people(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Annotate the duels of a ranking against its grades, then rank the same answers by that."""
    monkeypatch.chdir(tmp_path)
    rows = [
        {"prompt": f"question {n}.", "completions": [{"text": f"{m}", "grade": m} for m in (1, 2)]}
        for n in range(4)
    ]
    Path("answers.jsonl").write_bytes(jsonl(rows))
    config = {
        "policy": {"name": "scripted", "replies": ["a"]},
        "completions": {"name": "file", "path": "answers.jsonl"},
        "rank": {"judge": {"name": "recorded"}},
    }
    Path("run.yaml").write_text(json.dumps(config | {"run_dir": "run"}))
    for stage in ("sample", "rank"):
        ranked = prefine(stage, "run.yaml")
        assert ranked.code == OK, ranked.err
    before = files(Path("run"))
    with Annotator("annotate", "run", "--of", "rank", "--annotator", "anna") as anna:
        for done in range(4):
            lines = anna.wait(lambda seen, done=done: judged_on(seen) == done)  # type: ignore[misc]
            first = lines[lines.index("── First (1) " + "─" * 67) + 1]
            anna.press("1" if first == "1" else "2")  # the lower grade wins
        anna.wait_for("This was the last comparison")
        anna.press("q")
        code, out = anna.end()
    assert code == OK, out
    assert "duels of a ranking have no side whose wins could be counted" in " ".join(out.split())
    assert "agree on 0.0 %" in out
    assert files(Path("run")) == before
    judge = {"name": "recorded", "path": "run/annotations"}
    Path("people.yaml").write_text(
        json.dumps(config | {"run_dir": "people", "rank": {"judge": judge}})
    )
    for stage in ("sample", "rank"):
        ranked = prefine(stage, "people.yaml")
        assert ranked.code == OK, ranked.err
    of_prompt = {
        prompt.id: {one.id: one.text for one in completions}
        for prompt, completions in RunView(Path("people")).completions()
    }
    champions = [
        of_prompt[one.prompt_id][str(one.champion)] for one in RunView(Path("people")).rankings()
    ]
    assert champions == ["1"] * 4
    # The run that was annotated goes on as ever.
    assert prefine("rank", "run.yaml").code == OK

    # Verdicts on three of four prompts: the fourth is missing, and no tie.
    path = Path("run/annotations/anna.jsonl")
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:3]))
    some = config | {"run_dir": "some", "rank": {"judge": judge, "max_failed_fraction": 0.5}}
    for fraction, code, ranked_prompts in ((0.1, LIMIT, 0), (0.5, OK, 3)):
        some["rank"] = {"judge": judge, "max_failed_fraction": fraction}
        Path("some.yaml").write_text(json.dumps(some))
        assert prefine("sample", "some.yaml").code == OK
        found = prefine("rank", "some.yaml")
        assert found.code == code, found.err
        assert "no person has judged these two answers" in found.err + found.out
        assert len(list(RunView(Path("some")).rankings())) == ranked_prompts


# --- at a terminal


def test_a_person_at_a_terminal(tmp_path: Path) -> None:
    long = "\n".join(f"line {n}" for n in range(60))
    answers = [
        Answers(f"old {HOSTILE}\n{long}", f"new 日本語 🙂\n{long}", (0.0, 0.0)) for _ in range(6)
    ]
    run = make_run(tmp_path / "run", answers)
    before = files(run)
    with Annotator("annotate", str(run), "--annotator", "anna", "--json") as anna:
        lines = anna.wait(lambda seen: judged_on(seen) == 0)
        assert len(lines) == 24
        assert "model" not in " ".join(lines)
        assert "1 ← first  2 → second  t tie  s skip  b back  q quit  ? help" in lines[-1]
        assert "more lines" in lines[-1]
        # Scroll to the end, to the next part and back.
        anna.press("\x1b[F")
        anna.wait(lambda seen: seen[-2].rstrip() == "line 59" and "more lines" not in seen[-1])
        anna.press("\x1b[H")
        anna.wait(lambda seen: seen[1].startswith("── Prompt"))
        anna.press("\t")
        anna.wait(lambda seen: seen[1].startswith("── First"))
        anna.press("\t")
        anna.wait(lambda seen: seen[1].startswith("── Second"))
        anna.press("?")
        anna.wait_for("every verdict is on the disk already")
        anna.press("x")
        anna.wait(lambda seen: seen[1].startswith("── Second"))
        anna.resize(120, 30)
        anna.wait(lambda seen: len(seen) == 30 and any("│ ── Second" in one for one in seen))
        anna.resize(80, 24)
        anna.wait(lambda seen: len(seen) == 24)
        assert "taken" in anna.said
        assert "\x1b]0;taken" not in anna.said
        assert "\u202e" not in anna.said
        # Several keys at once are one verdict.
        anna.press("1112tttt")
        anna.wait(lambda seen: judged_on(seen) == 1)
        anna.press("\x1b[C")
        anna.wait(lambda seen: judged_on(seen) == 2)
        anna.press("t")
        anna.wait(lambda seen: judged_on(seen) == 3)
        waiting = question_on(anna.screen())
        anna.press("s")
        anna.wait(lambda seen: question_on(seen) not in (None, waiting))
        anna.press("b")
        anna.wait_for("you said: skipped")
        anna.press("2")
        anna.wait(lambda seen: judged_on(seen) == 4)
        anna.press("q")
        code, out = anna.end()
    assert code == OK
    rows = verdict_rows(run / "annotations" / "anna.jsonl")
    assert [row["p_first"] for row in rows] == [1, 0, 0.5, None, 0]
    assert json.loads(out)["annotators"][0]["judged"] == 4
    assert files(run) == before


def test_ctrl_c_gives_the_terminal_back(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", [judged(n, 0.5) for n in range(3)])
    with Annotator("annotate", str(run), "--annotator", "anna") as anna:
        anna.wait(lambda seen: judged_on(seen) == 0)
        anna.press("\x03")
        code, out = anna.end()
    assert code == INTERRUPTED
    assert "the same command goes on from here" in out


def test_kills_lose_no_verdict_and_nothing_is_asked_twice(tmp_path: Path) -> None:
    """Three kills at random moments; `benchmarks/annotation.py` makes twenty."""
    run = make_run(tmp_path / "run", [judged(n, 0.5) for n in range(400)])
    path = run / "annotations" / "anna.jsonl"
    rng = random.Random(11)
    followed: list[str] = []
    for _ in range(3):
        before = {row["prompt_id"] for row in verdict_rows(path)}
        killed = annotate_until_killed(
            run, "--annotator", "anna", "--queue", "mixed", after_s=rng.uniform(0.2, 0.8)
        )
        assert not before & set(killed.shown), "a question is asked again"
        assert len(set(killed.shown)) == len(killed.shown)
        followed += killed.followed
        rows = [row["prompt_id"] for row in verdict_rows(path) if not row["carried"]]
        assert set(followed) <= set(rows), "a verdict that another question stood behind is lost"
        assert len(rows) == len(set(rows))
    assert len(followed) > 3


def test_two_annotators_at_the_same_time(tmp_path: Path) -> None:
    """While another process works on the run, and with their verdicts elsewhere."""
    run = make_run(tmp_path / "run", [judged(n, 0.5) for n in range(5)])
    place = ("--to", str(tmp_path / "verdicts"))
    with (
        RunFolder(run),
        Annotator("annotate", str(run), "--annotator", "anna", *place) as anna,
        Annotator("annotate", str(run), "--annotator", "ben", *place) as ben,
    ):
        for done in range(2):
            for one in (anna, ben):
                one.wait(lambda seen, done=done: judged_on(seen) == done)  # type: ignore[misc]
                one.press("1")
        for one in (anna, ben):
            one.wait(lambda seen: judged_on(seen) == 2)
        second = prefine("annotate", str(run), "--summary", *place)
        assert second.code == OK, "reading needs no lease"
        assert "human:anna: 2 judged" in second.out
        refused = Annotator("annotate", str(run), "--annotator", "anna", *place)
        code, out = refused.end()
        assert code == CONFIG
        assert "another process annotates as anna" in out
        ben.press("q")
        code, out = ben.end()
    assert code == OK
    assert "human:anna and human:ben agree on" in " ".join(out.split())
    assert not (run / "annotations").exists()


# --- help and refusals


def test_help_names_every_option() -> None:
    found = prefine("annotate", "--help")
    assert found.code == OK
    for option in ("--queue", "--of", "--annotator", "--to", "--seed", "--half-width", "--summary"):
        assert option in found.out


def test_command_lines_that_cannot_be_carried_out(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", [judged(n, 0.5) for n in range(3)])
    manifest = json.loads((run / "manifest.json").read_text())
    for arguments, code, said in (
        ([str(run)], CONFIG, "annotate asks at a terminal, and there is none here"),
        ([str(run), "--queue", "rand"], CONFIG, "--queue 'rand': no such choice; did you mean"),
        ([str(run), "--of", "duels"], CONFIG, "--of 'duels': no such choice"),
        ([str(run), "--half-width", "0", "--summary"], CONFIG, "percentage points above 0"),
        ([str(tmp_path), "--summary"], CONFIG, "there is no run here"),
        ([str(run), "--of", "rank", "--summary"], DATA, "no duels of a ranking here"),
    ):
        found = prefine("annotate", *arguments)
        assert found.code == code, found.err
        assert said in found.err
    make_run(tmp_path / "all" / "round-01", [])
    config = {"schema_version": 1, "config": {"run_dir": "all", "rounds": {"count": 1}}}
    (tmp_path / "all" / "config.json").write_text(json.dumps(config))
    found = prefine("annotate", str(tmp_path / "all"), "--summary")
    assert found.code == CONFIG
    assert "holds several runs; name one of them, such as" in found.err
    manifest["stages"]["evaluate"]["complete"] = False
    (run / "manifest.json").write_text(json.dumps(manifest))
    found = prefine("annotate", str(run), "--summary")
    assert found.code == DATA
    assert "take --of rank for the duels" in found.err
