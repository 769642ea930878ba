"""A run folder at an S3-like server: the machine is lost in `rank` and in `train`, and another one
goes on.
"""

from pathlib import Path

from command import prefine
from kept_runs import (
    BUCKET,
    answers_at,
    checkpoints_at,
    judged_place,
    kept,
    kept_at,
    killed_when,
    lost,
    s3_server,
    segments_at,
    slow_training,
    stage,
    started,
)
from mock_place import mock_server
from run_place import CONFIG, OK, Place

HERE = ("--set", "storage.local=here")


def test_a_machine_lost_in_rank_and_in_train(place: Place, tmp_path: Path) -> None:
    url = f"s3://{BUCKET}/run"
    with mock_server(latency_s=0.08) as judge, s3_server() as variables:
        done = prefine("run", "run.yaml", "--run-dir", "s3://no-such-bucket/x", *HERE)
        assert (done.code, "there is no such bucket" in done.err) == (CONFIG, True), done.err
        judged_place(place, judge.url, prompts=24, concurrency=4)
        slow_training(place, steps=8)
        done = prefine("run", "run.yaml", "--run-dir", "whole")
        assert done.code == OK, done.err
        whole, calls = kept(place.root / "whole"), judge.server.book.requests
        assert calls == stage(place.root / "whole", "rank")["usage"]["calls"] > 50

        before = judge.server.book.requests
        killed_when(started(place, url, "first", variables), lambda: segments_at(url) >= 2)
        lost(place, "first")
        journaled = answers_at(url)
        assert 0 < journaled < calls, "the kill came too late to show anything"
        assert "model" not in {name.split("/")[0] for name in kept_at(url)}
        asked_first = judge.server.book.requests - before

        before = judge.server.book.requests
        second = started(place, url, "second", variables | {"PAUSE_S": "1"})
        killed_when(second, lambda: checkpoints_at(url) >= ["step-00002"])
        lost(place, "second")
        # Every answer that was journaled at the store was asked for once, by the server's count.
        assert judge.server.book.requests - before == calls - journaled
        assert asked_first >= journaled

        before, there = judge.server.book.requests, checkpoints_at(url)
        third = started(place, url, "third", variables)
        _, said = third.communicate(timeout=120)
        assert third.returncode == OK, said
        assert judge.server.book.requests == before
        assert kept(place.root / "third" / "work") == whole
        assert kept_at(url) == whole
        assert there[-1] < "step-00008", "the kill came too late to show anything"
        assert f"training goes on after step {int(there[-1].removeprefix('step-'))}" in said
