"""What a run from pairs to a LoRA adapter under a fixed budget does not load: it pays for nothing
that it does not use, and who follows it reads no more than it needs.
"""

import sys
from pathlib import Path

BENCHMARKS = str(Path(__file__).parents[2] / "benchmarks")
sys.path.append(BENCHMARKS)

from size import SOURCE, loaded, tokens  # noqa: E402

# Left there, benchmarks/losses.py would hide the folder tests/losses from other tests.
sys.path.remove(BENCHMARKS)

MOST_FILES, MOST_TOKENS = 175, 138_000
UNUSED = """
annotate bridging calls compare hub judges judging playground ranking rounds simulator suites sweep
trl view
cli/annotate cli/compare cli/config cli/cost cli/evaluate cli/hub cli/init cli/mock_server
cli/rounds cli/stages cli/sweep cli/tools cli/usage cli/view
config/messages config/schema config/sweep
data/hub data/judged data/own_sources data/playground data/reference_answers data/table_formats
data/layouts/answers data/layouts/chats data/layouts/conversations data/layouts/fields
data/layouts/graded data/layouts/trainers data/layouts/votes
executors/dispatch executors/ray_cluster executors/ray_pool executors/worker
losses/cards losses/lists losses/other_references losses/points losses/rewards
metrics/judges metrics/rewards metrics/runs metrics/sweeps metrics/texts metrics/win_rates
metrics/statistics/intervals metrics/statistics/resampling
models/hf/open_rows models/hf/reward models/hf/reward_head models/hf/sampling models/mixture
models/mock_server models/openai models/playground models/scripted models/served
pairing/select pairing/selectors
run/fetch run/journal run/journal_parts run/mirror run/remote run/segments run/store_lease
stages/anchors stages/bridge stages/evaluate stages/head_to_head stages/pair_job stages/plan
stages/rank stages/ranker stages/replay stages/sample stages/selection stages/servers
stages/shards stages/token_logps
training/budget training/cross_prompt training/distributed/sharded training/early_stop
training/logging/trackers training/memory_estimate training/reference/ches
training/relations/labels training/relations/lists training/relations/mixed
training/relations/rewards training/reward_texts training/step_sources/self_play
training/step_sources/shares training/token_sample
""".split()


def test_a_lora_run_from_pairs_loads_only_what_it_uses() -> None:
    for part in UNUSED:
        there = SOURCE / part
        assert there.is_dir() or there.with_suffix(".py").is_file(), f"{part} has moved"
    files = loaded()
    names = [path.relative_to(SOURCE).with_suffix("").as_posix() for path in files]
    assert "training/loop" in names, "it has trained"
    assert "report/page" in names, "it has reported"
    assert not {
        name for name in names for part in UNUSED if name == part or name.startswith(f"{part}/")
    }
    assert len(files) <= MOST_FILES
    assert sum(map(tokens, files)) <= MOST_TOKENS
