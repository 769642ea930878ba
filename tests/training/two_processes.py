"""One of two processes, for all tests that need two: `python two_processes.py RANK MEETING_FILE
FOLDER`.
"""

import json
import sys
from pathlib import Path

import torch
from item_gradients import item_gradients
from loop_processes import trainings
from sharded_architectures import apart, whole_gradients
from step_gradients import gradients
from torch import distributed as dist

if __name__ == "__main__":
    rank, meet, folder = int(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
    torch.set_num_threads(1)
    alone = whole_gradients()
    dist.init_process_group("gloo", init_method=f"file://{meet}", rank=rank, world_size=2)
    (folder / f"gradients-{rank}.json").write_text(json.dumps(gradients(rank)), encoding="utf-8")
    found = json.dumps(item_gradients(rank))
    (folder / f"item-gradients-{rank}.json").write_text(found, encoding="utf-8")
    trainings(rank, folder)
    (folder / f"apart-{rank}.json").write_text(json.dumps(dict(apart(alone))), encoding="utf-8")
    dist.destroy_process_group()
