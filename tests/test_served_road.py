"""The whole road against a real server: `transformers serve`, which ignores `n` and `logprobs`
with a 200.
"""

import json
from collections import defaultdict
from pathlib import Path

import pyarrow.parquet as pq
import yaml

from command import prefine
from transformers_server import sampling_folder

PLAYGROUND = Path(__file__).parents[1] / "src" / "prefine" / "playground" / "model"
PROMPTS, SAMPLES, EVALUATED = 6, 4, 3


def test_prompts_to_report_with_completions_and_verdicts_from_a_server(
    hf_server: str, tiny_judge_folder: Path, tmp_path: Path
) -> None:
    served = sampling_folder(PLAYGROUND, tmp_path / "served-playground")
    server = {"name": "openai", "base_url": hf_server, "concurrency": 2, "timeout_s": 60}
    config = {
        "run_dir": str(tmp_path / "run"),
        "policy": {"name": "playground"},
        "prompts": {"name": "playground", "count": PROMPTS},
        "sample": {
            "model": {**server, "model": str(served), "label": "playground, served"},
            "completions_per_prompt": SAMPLES,
            "temperature": 1.0,
            "max_new_tokens": 40,
        },
        "rank": {
            "judge": {
                "name": "pairwise",
                "model": {**server, "model": str(tiny_judge_folder), "label": "tiny judge"},
                "max_new_tokens": 8,
            }
        },
        "train": {
            "regularizer": {"name": "budget", "delta": 1.5},
            "pairs_per_step": 4,
            "train_on_truncated": True,
        },
        "evaluate": {"prompts": {"name": "playground", "count": EVALUATED, "split": "test"}},
    }
    file = tmp_path / "served.yaml"
    file.write_text(yaml.safe_dump(config))

    result = prefine("run", str(file))

    assert result.code == 0, result.err
    run = tmp_path / "run"
    assert (run / "report.html").stat().st_size > 10_000
    texts = defaultdict(list)
    for row in pq.read_table(run / "completions").to_pylist():
        texts[row["prompt_id"]].append(row["text"])
    assert [len(found) for found in texts.values()] == [SAMPLES] * PROMPTS
    distinct = [len(set(found)) for found in texts.values()]
    assert distinct == [SAMPLES] * PROMPTS, "M distinct samples"
    stages = json.loads((run / "manifest.json").read_text())["stages"]
    assert any("ignores n" in note for note in stages["sample"]["notes"])
    assert any("gives no logprobs" in note for note in stages["rank"]["notes"])
    assert any("gives no logprobs" in note for note in stages["evaluate"]["notes"])
    duels = [duel for row in pq.read_table(run / "rankings").to_pylist() for duel in row["duels"]]
    assert duels and all(duel["p_first"] in (0.0, 1.0) for duel in duels), "verdicts read from text"
    usage = stages["rank"]["usage"]
    assert usage["calls"] >= len(duels) and usage["prompt_tokens"] > 1000 * len(duels)
    print(f"\ndistinct samples per prompt: {distinct} of {SAMPLES}; {len(duels)} duels judged")
    for stage in ("sample", "rank", "evaluate"):
        print(f"{stage} notes: {stages[stage]['notes']}")
