"""One of two processes that open the same trackers: `python tracking_process.py RANK
MEETING_FILE FOLDER`.
"""

import sys
from pathlib import Path

from test_trackers import row, start
from torch import distributed as dist

if __name__ == "__main__":
    rank, meet, folder = int(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
    dist.init_process_group("gloo", init_method=f"file://{meet}", rank=rank, world_size=2)
    with start(folder / str(rank), ("tensorboard",)) as trackers:
        trackers.log("train", 1, row(1))
    dist.barrier()
    dist.destroy_process_group()
