"""The playground's world: prompts that ask for a few short sentences, and a computed gold score.

A prompt reads "write 3 sentences about tea . use the word kettle . be cheerful ." and a good answer
"the bright kettle meets the cup . ...". There are hundreds of millions of prompts; the text of a
prompt alone decides if it is a train or a test prompt, so that no model is tested on a prompt that
it was trained on. Everything here is pure: randomness comes in as a `random.Random` or a seed.
"""

from prefine.playground.demonstrations import FLAW_RATES, demonstrate
from prefine.playground.scoring import gold, gold_parts, parts_of
from prefine.playground.tasks import Split, Task, draw_prompts, draw_task, parse, render, split_of

__all__ = [
    "FLAW_RATES",
    "Split",
    "Task",
    "demonstrate",
    "draw_prompts",
    "draw_task",
    "gold",
    "gold_parts",
    "parse",
    "parts_of",
    "render",
    "split_of",
]
