"""A user's own function `(prompt, completion) -> float` as a scorer."""

import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from prefine.calls.base import Failure
from prefine.judging.base import Answered
from prefine.records import Completion, Prompt, content_hash

ScoreFunction = Callable[[Prompt, Completion], float | None]


class FunctionScorer:
    """Calls a function for each completion; what it raises is a failure of that one, with its reason.

    Args:
        function: Takes a `Prompt` and a `Completion`; higher is better, None means that it cannot say.
        name: What it is called in the configuration.
        options: The keyword arguments that are bound to it, part of the fingerprint.
        source: The text of the module that it comes from: a changed function must not find its old scores.
    """

    batch_size = 256

    def __init__(self, function: ScoreFunction, *, name: str, options: Mapping[str, Any], source: str) -> None:
        self._function = function
        self.fingerprint = content_hash("function", name, {key: repr(value) for key, value in options.items()}, source)

    def scores(self, items: Sequence[Answered]) -> list[float | Failure]:
        """One score per item, in order."""
        return [self._score(item) for item in items]

    def _score(self, item: Answered) -> float | Failure:
        try:
            value = self._function(item.prompt, item.completion)
        # The user's code is a backend like any other: one item failing is data.
        except Exception as error:  # noqa: BLE001
            return Failure(f"the scorer raised {type(error).__name__}: {error}"[:200])
        return Failure("the scorer gave no score") if value is None else value


def source_of(function: Callable[..., Any]) -> str:
    """The text of the module that a function was written in; its name where there is no file."""
    module = sys.modules.get(function.__module__)
    file = None if module is None else inspect.getsourcefile(module)
    return function.__module__ if file is None else Path(file).read_text(encoding="utf-8")
