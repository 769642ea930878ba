"""Lists that a loss cannot read are refused by the check before a run, with their row."""

from command import prefine
from run_place import DATA, GONE, Place, jsonl


def test_ranks_are_refused_where_scores_are_read_and_nan_is_named(place: Place) -> None:
    answers = [{"text": "a", "rank": 2}, {"text": "b", "rank": 1}]
    place.put("lists.jsonl", jsonl([{"prompt": "x", "completions": answers}]))
    place.change({"completions": GONE, "rank": GONE, "lists": "lists.jsonl"})
    place.change({"train.loss": "list_net"})
    result = prefine("run", "run.yaml", "--dry-run")
    assert result.code == DATA
    assert (
        "lists.jsonl, line 1: states ranks and no scores, which train.loss 'list_net' reads; set "
        "its labels: ranks" in result.err
    )
    answers = [{"text": "a", "score": float("nan")}, {"text": "b", "score": 1}]
    place.put("lists.jsonl", jsonl([{"prompt": "x", "completions": answers}]))
    result = prefine("run", "run.yaml", "--dry-run")
    assert result.code == DATA
    assert "lists.jsonl, line 1, completion 0: no score; it is null or NaN" in result.err
