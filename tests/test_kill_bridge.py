"""kill -9 in stage `bridge`, then the same command: the same bytes, nothing asked again."""

import json
from pathlib import Path

from command import prefine
from test_kill import journaled, kill_when, stages

CONFIG = """
run_dir: unused
policy: {name: playground}
pairs: {name: file, path: PAIRS}
pair: {held_out_prompts: 0}
bridge:
  model: {name: scripted, replies: [RIGHT, WRONG, "no {prompt}"], delay_s: 0.02, batch: 2}
  judge: {name: playground, first_slot_bias: 0.5}
train: {pairs_per_step: 64, max_steps: 1}
"""
RIGHT = "the bright kettle meets the cup . the sunny spoon likes the honey ."
WRONG = "the grey king is loud"


def test_a_bridge_that_was_killed_ends_with_the_same_bytes(tmp_path: Path) -> None:
    rows = [
        {
            "prompt": f"write {count} sentences about tea . use the word {word} .",
            "chosen": "the kettle is new . the cup is old .",
            "rejected": f"the {word} is small . the king is loud .",
        }
        for count in (2, 3, 4)
        for word in ("kettle", "cup", "leaf", "steam", "spoon", "honey", "lemon", "pot", "saucer")
    ]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    text = CONFIG.replace("PAIRS", str(tmp_path / "pairs.jsonl"))
    text = text.replace("RIGHT", json.dumps(RIGHT)).replace("WRONG", json.dumps(WRONG))
    (tmp_path / "config.yaml").write_text(text)
    whole, killed = tmp_path / "whole", tmp_path / "killed"

    def run(folder: Path) -> None:
        found = prefine("run", str(tmp_path / "config.yaml"), "--run-dir", str(folder))
        assert found.code == 0, found.err

    def contents(folder: Path) -> dict[str, bytes]:
        globs = ("pairs/*", "bridged_pairs/*", "train_log.jsonl", "model/*.safetensors")
        found = {str(p.relative_to(folder)): p for glob in globs for p in folder.glob(glob)}
        assert len(found) == 4
        return {name: path.read_bytes() for name, path in found.items()}

    run(whole)
    kill_when(killed, lambda: journaled(killed) >= 8)
    answered = journaled(killed)
    assert answered < journaled(whole) and not stages(killed)["bridge"]["complete"]
    run(killed)
    assert contents(killed) == contents(whole)
    manifest = stages(killed)["bridge"]
    assert manifest["usage"] == stages(whole)["bridge"]["usage"]
    assert manifest["replayed"] == answered, "a journaled answer was asked for again"
