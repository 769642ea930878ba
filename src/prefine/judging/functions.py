"""A user's own function `(prompt, completion) -> float` as a scorer."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from prefine.calls.protocol import Failure
from prefine.judging.protocol import Answered
from prefine.records import Completion, Prompt, content_hash

ScoreFunction = Callable[[Prompt, Completion], float | None]


class FunctionScorer:
    """Calls a function for each completion; what it raises is a failure of that one, with its reason.

    Args:
        function: Takes a `Prompt` and a `Completion`; higher is better, None means that it cannot
            say.
        name: What it is called in the configuration.
        options: The keyword arguments that are bound to it, part of the fingerprint.
        source: The text of the module that it comes from: a changed function must not find its old
            scores.
    """

    batch_size = 256
    batches_matter = False
    reads_records = True

    def __init__(
        self, function: ScoreFunction, *, name: str, options: Mapping[str, Any], source: str
    ) -> None:
        self._function = function
        self.fingerprint = content_hash(
            "function", name, {key: repr(value) for key, value in options.items()}, source
        )

    def scores(self, items: Sequence[Answered]) -> list[float | Failure]:
        """One score per item, in order."""
        return [self._score(item) for item in items]

    def _score(self, item: Answered) -> float | Failure:
        try:
            value = self._function(item.prompt, item.completion)
        except Exception as error:  # noqa: BLE001 - the user's code is a backend: one item failing is data
            return Failure(f"the scorer raised {type(error).__name__}: {error}"[:200])
        return Failure("the scorer gave no score") if value is None else value


def source_of(function: Callable[..., Any]) -> str:
    """The text of the module that a function was written in; what there is instead in a notebook or a prompt."""
    inner = inspect.unwrap(getattr(function, "func", function))
    things: tuple[Any, ...] = (inspect.getmodule(inner), inner)
    for thing in things:
        try:
            return inspect.getsource(thing)
        except (OSError, TypeError):
            continue
    code = getattr(inner, "__code__", None)
    return repr(inner) if code is None else repr((code.co_code, code.co_consts, code.co_names))
