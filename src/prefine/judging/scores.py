"""Judges that score: P(first) = sigmoid((score of first − score of second) / temperature).

Each completion is scored once, whatever it is compared with; scores are journaled like everything
that is asked.
"""

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from numbers import Real
from typing import Annotated, Any, Literal, Protocol

from pydantic import Field

from prefine.calls.protocol import Asker, Call, Failure
from prefine.judging.asking import Paced, ask_in_batches
from prefine.judging.protocol import Matchup, metadata_key
from prefine.models.capabilities import check_model, provides
from prefine.models.protocol import Answered, Checks
from prefine.records import Completion, Judgment, Prompt, Score, Usage, content_hash

ScoreFunction = Callable[[Prompt, Completion], float | None]
_ONE = Usage(calls=1)


class Scorer(Protocol):
    """Gives completions a number, the higher the better."""

    @property
    def fingerprint(self) -> str:
        """Hash of everything that a score depends on beside prompt and completion."""
        ...

    @property
    def batch_size(self) -> int:
        """Completions that are scored together."""
        ...

    @property
    def batches_matter(self) -> bool:
        """True if the last digits of a score may depend on the rest of its batch."""
        ...

    @property
    def concurrency(self) -> int:
        """Batches scored at a time, each in a thread; 1 where batches matter."""
        ...

    @property
    def reads_metadata(self) -> bool:
        """True if a score may depend on more than the texts, such as metadata."""
        ...

    def scores(self, items: Sequence[Answered]) -> Sequence[float | Failure]:
        """Return one score per item, in order.

        Args:
            items: At most `batch_size` completions, each with its prompt.

        Raises:
            BackendError: The model cannot be loaded.
        """
        ...


class FunctionScorer:
    """A user's function as a scorer; an exception in it is a failure of that completion.

    Args:
        function: Takes a `Prompt` and a `Completion`; higher is better, None means that it cannot
            say. It runs in one thread, unless an attribute `concurrency` says in how many.
        name: Its name in the configuration.
        options: The keyword arguments that are bound to it, part of the fingerprint.
        source: The text of its module: a changed function must not find its old scores.
    """

    batch_size = 256
    batches_matter = False
    reads_metadata = True

    def __init__(
        self, function: ScoreFunction, *, name: str, options: Mapping[str, Any], source: str
    ) -> None:
        self._function = function
        # Its options are bound to it by `functools.partial`, which has no attribute of it.
        self.concurrency: int = getattr(getattr(function, "func", function), "concurrency", 1)
        self.fingerprint = content_hash(
            "function", name, {key: repr(value) for key, value in options.items()}, source
        )

    def scores(self, items: Sequence[Answered]) -> list[float | Failure]:
        """Return one score per item, in order."""
        return [self._score(item) for item in items]

    def _score(self, item: Answered) -> float | Failure:
        try:
            value = self._function(item.prompt, item.completion)
        except Exception as error:  # noqa: BLE001 - the user's code is a backend: one item failing is data
            return Failure(f"the scorer raised {type(error).__name__}: {error}"[:200])
        return Failure("the scorer gave no score") if value is None else value


@provides(Checks)
class ScoreJudge:
    """A judge that compares the scores of two completions.

    Args:
        scorer: Gives the scores.
        temperature: Score gap that makes the odds e to 1 [the scorer's unit].
    """

    first_slot_bias = 0.0

    def __init__(self, scorer: Scorer, *, temperature: float) -> None:
        self._scorer = scorer
        self.concurrency = scorer.concurrency
        self._paced = Paced(self._answers, largest=scorer.batch_size)
        self._temperature = temperature
        self._failed: dict[str, Failure] = {}

    @property
    def notes(self) -> tuple[str, ...]:
        """Remarks of the scorer, if it makes any."""
        return tuple(getattr(self._scorer, "notes", ()))

    @property
    def fingerprint(self) -> str:
        """Hash of scorer and temperature."""
        return content_hash("scores", self._scorer.fingerprint, self._temperature)

    def check(self, prompt: Prompt, completions: list[Completion]) -> None:
        """Accept all completions: one that cannot be scored is a failure with its reason."""

    def check_model(self) -> None:
        """Raise before any work if the scorer's model cannot be used."""
        check_model(self._scorer)

    async def rate(self, asker: Asker, items: Sequence[Answered]) -> list[Score]:
        """Return one score per item, in order; a failed one has no value and says why."""
        calls = [Call(self._key(item), item) for item in items]
        # A failure is not tried again in the next round of the same run.
        ordered = sorted(
            (call for call in calls if call.key not in self._failed),
            key=lambda call: (len(call.payload.completion.text), call.key),
        )
        answers = await ask_in_batches(
            asker,
            ordered,
            Score,
            self._answers if self._scorer.batches_matter else self._paced,
            size=self._scorer.batch_size,
            batches_matter=self._scorer.batches_matter,
            backend=self._scorer,
        )
        scores = []
        for call in calls:
            answer = self._failed.get(call.key) or answers[call.key]
            if isinstance(answer, Failure):
                self._failed[call.key] = answer
                answer = Score(
                    completion_id=call.payload.completion.id,
                    judge=self._scorer.fingerprint,
                    error=answer.reason,
                )
            scores.append(answer)
        return scores

    async def judge(self, asker: Asker, matchups: Sequence[Matchup]) -> list[Judgment]:
        """Return one judgment per matchup, in order; it fails where one of the two scores did."""
        items = [Answered(m.prompt, side) for m in matchups for side in (m.first, m.second)]
        scores = iter(await self.rate(asker, items))
        return [self._judgment(matchup, next(scores), next(scores)) for matchup in matchups]

    def _judgment(self, matchup: Matchup, first: Score, second: Score) -> Judgment:
        p_first = None
        if first.value is not None and second.value is not None:
            gap = (first.value - second.value) / self._temperature
            p_first = 0.5 + 0.5 * math.tanh(gap / 2)
        return Judgment(
            comparison=matchup.comparison,
            judge=self.fingerprint,
            p_first=p_first,
            error=first.error or second.error,
        )

    def _key(self, item: Answered) -> str:
        prompt, completion = item
        extra = [metadata_key(prompt, completion)] if self._scorer.reads_metadata else []
        return content_hash(
            "score",
            self._scorer.fingerprint,
            prompt.id,
            completion.id,
            completion.message.chat(),
            *extra,
        )

    def _answers(self, calls: Sequence[Call[Answered]]) -> Mapping[str, Score | Failure]:
        values = self._scorer.scores([call.payload for call in calls])
        return {
            call.key: self._score(call.payload, value)
            for call, value in zip(calls, values, strict=True)
        }

    def _score(self, item: Answered, value: object) -> Score | Failure:
        if isinstance(value, Failure):
            return value
        number = _number(value)
        if number is None:
            return Failure(f"the score is a {type(value).__name__} and no number")
        if not math.isfinite(number):
            return Failure(
                f"the score is {number}, not a finite number; a function that cannot say returns "
                "None"
            )
        return Score(
            completion_id=item.completion.id,
            judge=self._scorer.fingerprint,
            value=number,
            usage=_ONE,
        )


def function_judge(function: ScoreFunction, *, name: str, temperature: float = 1.0) -> ScoreJudge:
    """Return a function as a judge."""
    options = getattr(function, "keywords", {})
    scorer = FunctionScorer(function, name=name, options=options, source=_source_of(function))
    return ScoreJudge(scorer, temperature=temperature)


def reward(
    *,
    path: str,
    temperature: Annotated[float, Field(gt=0)] = 1.0,
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto",
    device: str = "auto",
    batch_rows: Annotated[int, Field(gt=0)] = 16,
    max_tokens: Annotated[int, Field(gt=0)] | None = None,
    config_path: str = "",
) -> ScoreJudge:
    """P(first) = sigmoid((reward of first − reward of second) / temperature).

    Args:
        path: Folder or hub id of a sequence classifier with one label and a chat template.
        temperature: Reward gap that makes the odds e to 1. Bradley–Terry reward models are trained
            for 1.
        dtype: "auto" is the dtype that the weights are stored in.
        device: "auto" is the accelerator when there is one.
        batch_rows: Conversations scored at a time.
        max_tokens: Longer conversations are failures; None is what the model reads.
        config_path: Of this judge, for messages.
    """
    from prefine.models.hf.reward import RewardModel

    scorer = RewardModel(
        path=path,
        dtype=dtype,
        device=device,
        batch_size=batch_rows,
        max_tokens=max_tokens,
        config_path=config_path,
    )
    return ScoreJudge(scorer, temperature=temperature)


def _number(value: Any) -> float | None:
    """Return a number of Python, or one value of numpy or torch; None for anything else."""
    if hasattr(value, "item"):
        try:
            value = value.item()
        except (ValueError, RuntimeError):  # more than one value
            return None
    if isinstance(value, bool) or not isinstance(value, Real):
        return None
    return float(value)


def _source_of(function: Callable[..., Any]) -> str:
    """Return the text of the function's module, or its byte code where there is no file."""
    inner = inspect.unwrap(getattr(function, "func", function))
    things: tuple[Any, ...] = (inspect.getmodule(inner), inner)
    for thing in things:
        try:
            return inspect.getsource(thing)
        except (OSError, TypeError):
            continue
    code = getattr(inner, "__code__", None)
    return repr(inner) if code is None else repr((code.co_code, code.co_consts, code.co_names))
