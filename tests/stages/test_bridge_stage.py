"""Stage `bridge`: which pairs are rewritten, what becomes of them, and what is counted."""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from command import prefine
from prefine.bridging import outcome
from prefine.calls.protocol import Failure
from prefine.config.rounds import LineageConfig, ReplayConfig
from prefine.config.sections import PairConfig
from prefine.config.yaml import validate
from prefine.errors import ConfigError, LimitError
from prefine.judges.prompts import prompt_text
from prefine.models.capabilities import provides
from prefine.models.protocol import Replies, Reply
from prefine.records import Completion, Manifest, Message, PreferencePair, Prompt, Usage
from prefine.run.folder import RunFolder
from prefine.run.item_rows import bridged_row, pair_of
from prefine.run.tables import TableWriter, parts, read_part, table_hash
from prefine.run.view import RunView
from prefine.stages import bridge, pair
from prefine.stages.bridged import BRIDGED_PAIRS, bridge_examples
from prefine.stages.stage_run import Silent
from run_place import OK, jsonl

REJECTED = "a plain cup of tea"
asked: list[str] = []
seen: list[tuple[str, str]] = []


@provides(Replies)
class Rewriter:
    """A model that replies by the number in the question."""

    fingerprint = "rewriter"
    label = "rewriter"
    concurrency = 4
    conversations_per_batch = 1
    notes = ()

    async def respond(
        self, conversations: Sequence[tuple[Message, ...]], *, max_new_tokens: int, **_: Any
    ) -> list[Reply | Failure]:
        return [self._reply(chat[-1].content) for chat in conversations]

    def _reply(self, text: str) -> Reply | Failure:
        number = int(text.split("question ")[1].split("\n")[0])
        asked.append(f"question {number}")
        replies = {
            1: REJECTED,
            2: "  ",
            3: "word " * 200,
            4: f"a fine pot of tea {number}",
            5: "a bad cup of tea",
            6: "<think>hm</think>a good cup of tea",
        }
        if number == 7:
            return Failure("the server is busy", Usage(calls=1))
        finish: Any = "length" if number == 8 else "stop"
        return Reply(replies.get(number, "a good cup of tea"), finish, None, Usage(calls=1))


class Taster:
    """A judge with a known preference for the first slot."""

    fingerprint = "taster"
    first_slot_bias = 0.5

    def check(self, prompt: Prompt, completions: list[Completion]) -> None:
        pass

    def compare(self, prompt: Prompt, first: Completion, second: Completion) -> Any:
        from prefine.judges.protocol import Verdict

        seen.append((first.text, second.text))
        if "question 9" in prompt.text:
            return Verdict(None, "cannot say")
        gap = ("good" in first.text) - ("good" in second.text)
        return Verdict(0.7 + 0.2 * gap)


class Neutral(Taster):
    """The same judge, if nothing is known of its preference."""

    fingerprint = "neutral"
    first_slot_bias = 0.0


def made(tmp_path: Path, count: int = 12, **section: Any) -> tuple[Any, RunFolder]:
    """A folder with imported pairs, and its configuration."""
    rows = [
        {"prompt": f"question {n}\n", "chosen": f"a fine pot of tea {n}", "rejected": REJECTED}
        for n in range(count)
    ]
    tmp_path.mkdir(exist_ok=True)
    (tmp_path / "pairs.jsonl").write_bytes(jsonl(rows))
    config = validate(
        {
            "run_dir": str(tmp_path / "run"),
            "policy": {"name": "hf", "path": "model"},
            "pairs": {"name": "file", "path": str(tmp_path / "pairs.jsonl")},
            "bridge": {
                "model": {"name": Rewriter},
                "judge": {"name": Taster},
                "max_failed_fraction": 1.0,
                **section,
            },
        },
        where="test",
    )
    asked.clear()
    seen.clear()
    folder = RunFolder(config.run_dir)
    folder.adopt_config(config.resolved())
    pair.run(config, folder, Silent())
    return config, folder


def rows_of(folder: RunFolder) -> dict[int, dict[str, Any]]:
    rows = [row for path in parts(folder / BRIDGED_PAIRS) for row in read_part(path)]
    return {int(row["prompt"][0]["content"].split()[1]): row for row in rows}


def test_what_becomes_of_pairs(tmp_path: Path) -> None:
    config, folder = made(tmp_path)
    with folder:
        manifest = bridge.run(config, folder, Silent())
        rows = rows_of(folder)
        stored = [pair_of(row) for path in parts(folder / "pairs") for row in read_part(path)]
        before = {one.prompt.id: one for one in stored}
        again = bridge.run(config, folder, Silent())
    assert again == manifest
    found = {number: row["prefine_bridge"] for number, row in rows.items()}
    assert found == {
        0: outcome.BRIDGED,
        1: outcome.REPEATED,
        2: outcome.EMPTY,
        3: outcome.TOO_LONG,
        4: outcome.SAME_AS_CHOSEN,
        5: outcome.NOT_PREFERRED,
        6: outcome.BRIDGED,
        7: "the server is busy",
        8: "the rewriting was cut by the length limit: raise bridge.max_new_tokens",
        9: outcome.NO_VERDICT,
        10: outcome.BRIDGED,
        11: outcome.BRIDGED,
    }
    # No pair is lost, and every one that is not bridged is what it was.
    assert (manifest.counts.taken, manifest.counts.produced) == (12, 4)
    assert manifest.counts.failed == {
        reason: 1 for number, reason in found.items() if number in (1, 2, 3, 7, 8, 9)
    }
    assert manifest.counts.dropped == {outcome.SAME_AS_CHOSEN: 1, outcome.NOT_PREFERRED: 1}
    for number, row in rows.items():
        pair = pair_of(row)
        if found[number] == outcome.BRIDGED:
            old = before[pair.prompt.id]
            assert pair.chosen.text == "a good cup of tea"
            assert (pair.rejected, pair.bridged_from) == (old.rejected, old.chosen)
            assert row["prefine_original_chosen"][0]["content"] == f"a fine pot of tea {number}"
            # Both orders, .9 and 1 - .5 for the rewriting.
            assert pair.p_chosen == pytest.approx(0.7) and pair.score_gap is None
        else:
            assert pair == before[pair.prompt.id] and row["prefine_original_chosen"] is None
    assert pair_of(rows[6]).chosen.message.reasoning == "hm"
    # The judge saw each rewriting that is worth it, in both orders.
    assert Counter(seen) == {
        (REJECTED, "a good cup of tea"): 5,
        ("a good cup of tea", REJECTED): 5,
        (REJECTED, "a bad cup of tea"): 1,
        ("a bad cup of tea", REJECTED): 1,
    }
    (example, *_) = bridge_examples(tmp_path / "run", 3)
    assert (example.rejected, example.bridged) == (REJECTED, "a good cup of tea")
    assert example.original.startswith("a fine pot of tea")


def test_a_run_that_was_cut_asks_for_failed_calls_only(tmp_path: Path) -> None:
    config, folder = made(tmp_path)
    with folder:
        bridge.run(config, folder, Silent())
        first = table_hash(folder / BRIDGED_PAIRS)
        parts(folder / BRIDGED_PAIRS)[0].unlink()
        asked.clear()
        seen.clear()
        again = bridge.run(config, folder, Silent())
        assert table_hash(folder / BRIDGED_PAIRS) == first
    assert sorted(asked) == ["question 7", "question 8"]
    assert {first for first, _ in seen} == {REJECTED, "a good cup of tea"} and len(seen) == 2
    # 10 replies, and 5 verdicts but that on question 9, in both orders.
    assert again.replayed == 10 + 2 * 5


def test_a_judge_without_a_preference_is_asked_once(tmp_path: Path) -> None:
    config, folder = made(tmp_path, 40, judge={"name": Neutral})
    with folder:
        bridge.run(config, folder, Silent())
        rows = rows_of(folder)
    first_slots = Counter(first for first, _ in seen if "bad" not in first)
    # 33 rewritings are worth a verdict, about half of them stand first.
    assert len(seen) == 34 and 8 <= first_slots["a good cup of tea"] <= 25
    # .9 where the rewriting stands first; where it stands second, 1 - .5 is no preference.
    assert {row["prefine_p_chosen"] for n, row in rows.items() if n > 9} == {0.7 + 0.2, None}


@pytest.mark.parametrize(("judge", "order", "times"), [(Neutral, "both", 2), (Taster, "single", 1)])
def test_the_order_can_be_said(tmp_path: Path, judge: Any, order: str, times: int) -> None:
    config, folder = made(tmp_path, 12, judge={"name": judge}, order=order)
    with folder:
        bridge.run(config, folder, Silent())
    # The rewritings of questions 0, 5, 6, 9, 10 and 11.
    assert len(seen) == 6 * times


def test_shares_are_nested_and_null_asks_no_judge(tmp_path: Path) -> None:
    taken = []
    for share in (0.3, 0.6):
        config, folder = made(tmp_path / str(share), 60, share=share, judge=None)
        with folder:
            manifest = bridge.run(config, folder, Silent())
            found = rows_of(folder)
        taken.append({n for n, r in found.items() if r["prefine_bridge"] != outcome.NOT_IN_SHARE})
        assert {f"question {n}" for n in taken[-1]} == set(asked) and not seen
        assert pair_of(found[max(taken[-1])]).p_chosen is None
        assert manifest.counts.dropped[outcome.NOT_IN_SHARE] == 60 - len(taken[-1])
    assert taken[0] < taken[1] and 8 <= len(taken[0]) <= 28 and 26 <= len(taken[1]) <= 46


def test_pairs_that_an_earlier_round_has_bridged_or_left_are_not_asked_about(
    tmp_path: Path,
) -> None:
    config, folder = made(tmp_path, judge=None)
    found = [pair_of(row) for path in parts(folder / "pairs") for row in read_part(path)]
    earlier = [one for one in found if one.prompt.text.strip() in ("question 6", "question 10")]
    with TableWriter(tmp_path / "round-01" / BRIDGED_PAIRS, BRIDGED_PAIRS) as writer:
        writer.write([bridged_row(one, outcome.BRIDGED) for one in earlier], key="key")
    of_round = config.model_copy(
        update={
            "pair": PairConfig(replay=ReplayConfig(share=0.2)),
            "lineage": LineageConfig(round=2, initial=config.policy),
        }
    )
    with folder:
        manifest = bridge.run(of_round, folder, Silent())
    assert sorted(asked) == sorted(f"question {n}" for n in range(12) if n not in (6, 10))
    assert manifest.counts.dropped[outcome.OF_EARLIER_ROUND] == 2
    kept = rows_of(folder)
    assert [pair_of(kept[n]) for n in (6, 10)] == earlier


def test_none_is_a_reply_where_one_answer_is_right(tmp_path: Path) -> None:
    model = {"name": "scripted", "replies": ["None."]}
    for request, reason in (("answers", outcome.NOTHING_TO_CHANGE), ("instructions", "bridged")):
        config, folder = made(tmp_path / request, 3, model=model, judge=None, prompt=request)
        with folder:
            bridge.run(config, folder, Silent())
            assert {row["prefine_bridge"] for row in rows_of(folder).values()} == {reason}


def test_limits_end_the_stage_and_raising_them_goes_on(tmp_path: Path) -> None:
    config, folder = made(tmp_path, max_calls=5)
    with folder, pytest.raises(LimitError, match=r"max_calls: .* limit 5; raise the limit"):
        bridge.run(config, folder, Silent())
    strict = config.model_copy(
        update={"bridge": config.bridge.model_copy(update={"max_failed_fraction": 0.2})}
    )
    with RunFolder(config.run_dir) as folder:
        free = {"max_calls": None, "max_failed_fraction": 0.2}
        strict = config.model_copy(update={"bridge": config.bridge.model_copy(update=free)})
        folder.adopt_config(strict.resolved())
        with pytest.raises(LimitError, match=r"bridge: 6 of 12 rewritings failed.*0.2 allows"):
            bridge.run(strict, folder, Silent())


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"judge": "rank"}, "bridge.judge: nobody judges .* no section rank"),
        ({"judge": {"name": "recorded"}}, "bridge.judge is 'recorded', which has grades"),
        ({"model": {"name": "playgroud"}}, "bridge.model.name: unknown bridger .*playground"),
        ({"model": {"name": "my:thing"}}, "bridge.model.name: cannot import 'my'"),
    ],
)
def test_a_section_that_cannot_be_is_refused_before_anything_is_asked(
    tmp_path: Path, changes: dict[str, Any], says: str
) -> None:
    config, folder = made(tmp_path, **changes)
    with folder, pytest.raises(ConfigError, match=says):
        bridge.run(config, folder, Silent())
    assert not asked


def test_pairs_keep_their_bytes_and_their_hashes() -> None:
    prompt = Prompt.from_text("q")
    sides = [
        Completion(
            id=text,
            prompt_id=prompt.id,
            sample_index=n,
            message=Message(role="assistant", content=text),
        )
        for n, text in enumerate(("good", "bad", "new"))
    ]
    plain = PreferencePair(prompt=prompt, chosen=sides[0], rejected=sides[1])
    assert "bridged_from" not in plain.model_dump()
    bridged = PreferencePair(
        prompt=prompt, chosen=sides[2], rejected=sides[1], bridged_from=sides[0]
    )
    assert PreferencePair.model_validate_json(bridged.model_dump_json()) == bridged


PLAYGROUND = {
    "policy": {"name": "playground"},
    "prompts": {"name": "playground", "count": 24, "split": "train"},
    "sample": {"completions_per_prompt": 3, "temperature": 1.0, "max_new_tokens": 40},
    "rank": {"judge": {"name": "playground"}},
    "bridge": {"model": "playground"},
    "train": {
        "loss": {"name": "bmc", "loss": {"name": "dpo"}, "differences": "levenshtein"},
        "pairs_per_step": 8,
        "max_steps": 2,
    },
}


def test_the_playground_trains_on_bridged_pairs_and_shows_them(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(json.dumps({"run_dir": str(tmp_path / "run"), **PLAYGROUND}))
    config = str(tmp_path / "run.json")
    planned = prefine("run", config, "--dry-run", "--json")
    assert planned.code == OK, planned.err
    plan = json.loads(planned.out)
    assert plan["stages"] == ["sample", "rank", "pair", "bridge", "train", "report"]
    lines = plan["lines"]
    assert (lines["answers to rewrite, at most"], lines["judge calls on them, at most"]) == (24, 48)
    ran = prefine("run", config)
    assert ran.code == OK, ran.err
    view = RunView(tmp_path / "run")
    manifests = view.manifests()
    bridged = [one for one in view.pairs(BRIDGED_PAIRS) if one.bridged_from is not None]
    assert 0 < manifests["bridge"].counts.produced == len(bridged) < 24
    assert manifests["train"].input_hashes.keys() == {"bridged_pairs", "policy"}
    page = (tmp_path / "run" / "report.html").read_text()
    assert page.count("<h3>Bridged pair ") == min(3, len(bridged))
    assert '<mark class="after">' in page[page.index('id="bridged"') :]
    # Other settings of the section: first its stage, then the training.
    refused = prefine("run", config, "--set", "bridge.share=0.5")
    assert refused.code == 2 and "bridge.share: 1.0 → 0.5" in refused.err
    loss = "train.loss={name: odpo}"
    refused = prefine("run", config, "--set", loss, "--run-dir", str(tmp_path / "other"))
    assert refused.code == 2 and "a rewritten answer has no score" in refused.err


def test_a_dry_run_prices_rewritings(tmp_path: Path) -> None:
    server = {"name": "openai", "model": "m", "base_url": "http://127.0.0.1:9/v1"}
    prices = {"prices": {"prompt": 4.0, "completion": 8.0}}
    rows = [{"prompt": "q" * 40, "chosen": "c" * 80, "rejected": "r" * 80}]
    (tmp_path / "pairs.jsonl").write_bytes(jsonl(rows))
    values = PLAYGROUND | {
        "run_dir": str(tmp_path / "run"),
        "pairs": {"name": "file", "path": str(tmp_path / "pairs.jsonl")},
        "bridge": {"model": server | prices, "judge": None},
    }
    values = {k: v for k, v in values.items() if k not in ("prompts", "sample", "rank")}
    (tmp_path / "run.json").write_text(json.dumps(values))
    planned = prefine("run", str(tmp_path / "run.json"), "--dry-run", "--offline", "--json")
    assert planned.code == OK, planned.err
    lines = json.loads(planned.out)["lines"]
    frame = (len(prompt_text("rubric")) + 1500) / 4
    # Of 4 characters a token: a question of 10, two answers of 20; another one is written.
    assert lines["cost of rewriting, about"] == pytest.approx(
        (4 * (frame + 10 + 40) + 8 * 20) / 1e6
    )
    assert (lines["answers to rewrite, at most"], lines["judge calls on them, at most"]) == (1, 0)


def test_training_wants_the_bridged_pairs_of_todays_pairs(tmp_path: Path) -> None:
    config, folder = made(tmp_path)
    from prefine.stages.bridged import check_bridged

    with folder:
        with pytest.raises(Exception, match="run `prefine bridge CONFIG` first"):
            check_bridged(config, folder)
        manifest: Manifest = bridge.run(config, folder, Silent())
        check_bridged(config, folder)
        stale = manifest.model_copy(update={"input_hashes": {"pairs": "other"}})
        folder.write_manifest(stale)
        with pytest.raises(Exception, match="the pairs have changed since stage bridge"):
            check_bridged(config, folder)
