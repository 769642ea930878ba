"""A judge of one's own: is the last number of an answer the one that is expected?

A judge can be any function `(prompt, completion) -> float`, higher being better. Arguments after
`*` are options in the YAML file, checked by their annotations. None says that there is no score,
which counts as a failure with a reason and never as a tie.
"""

import re
from typing import Annotated

from pydantic import Field

from prefine import Completion, Prompt

_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")


def solved(
    prompt: Prompt, completion: Completion, *, tolerance: Annotated[float, Field(ge=0)] = 1e-6
) -> float | None:
    """1 if the answer's last number is the prompt's column `answer`, else 0; None without one.

    Args:
        prompt: Its `metadata` holds the columns of the row that are not the prompt itself.
        completion: The answer.
        tolerance: How far off a number may be.
    """
    expected = prompt.metadata.get("answer")
    if not isinstance(expected, int | float):
        return None
    numbers = _NUMBER.findall(completion.text)
    return float(bool(numbers) and abs(float(numbers[-1].replace(",", "")) - expected) <= tolerance)
