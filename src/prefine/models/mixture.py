"""Several models that draw the completions of a prompt together, each its share of them."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Annotated, Any

from pydantic import Field, PositiveFloat

from prefine.calls.protocol import Batch, Call
from prefine.config.components import Nested
from prefine.config.sections import Decoding
from prefine.errors import ConfigError
from prefine.models.capabilities import check_model, provided, provides, required
from prefine.models.protocol import Checks, Releases, SampleRequest, Samples
from prefine.records import Completion, Prompt, content_hash

Model = Annotated[Callable[[], Any], Nested("backend")]


@provides(Samples, Releases, Checks)
class MixtureModel:
    """Draws each completion of a prompt from one of several models, in fixed proportions.

    Which one depends on the place of the completion among those of its prompt alone, so more
    completions per prompt keep those that are there.

    Args:
        models: Two or more backends that draw completions.
        weights: The share of each, in any unit.
        config_path: Of this model, for messages.
    """

    def __init__(
        self,
        *,
        models: Annotated[tuple[Model, ...], Field(min_length=2)],
        weights: tuple[PositiveFloat, ...],
        config_path: str = "",
    ) -> None:
        if len(models) != len(weights):
            raise ConfigError(
                f"{config_path}.weights: there are {len(models)} models and {len(weights)} "
                "weights; give each model one"
            )
        made = (make() for make in models)
        self.models = [
            required(one, Samples, what=f"{config_path}.models.{number}: {one.label!r}")
            for number, one in enumerate(made)
        ]
        self.weights = weights
        self._order: list[int] = []

    @property
    def label(self) -> str:
        """The models' names."""
        return " and ".join(model.label for model in self.models)

    @property
    def fingerprint(self) -> str:
        """Hash of the models' own, and of their shares."""
        total = sum(self.weights)
        shares = [weight / total for weight in self.weights]
        return content_hash("mixture", [model.fingerprint for model in self.models], shares)

    @property
    def concurrency(self) -> int:
        """Batches in flight: as few as for the model that takes the fewest."""
        return min(model.concurrency for model in self.models)

    @property
    def notes(self) -> tuple[str, ...]:
        """The models' remarks, each once."""
        return tuple(dict.fromkeys(note for model in self.models for note in model.notes))

    def check_model(self) -> None:
        """Check every model."""
        for model in self.models:
            check_model(model)

    def check_prompt(self, prompt: Prompt, decoding: Decoding, *, where: str) -> None:
        """Check that every model can answer a prompt.

        Raises:
            PromptTooLong: One cannot.
        """
        for model in self.models:
            model.check_prompt(prompt, decoding, where=where)

    def sample(
        self,
        shard: Sequence[Call[SampleRequest]],
        wanted: Sequence[Call[SampleRequest]],
        decoding: Decoding,
    ) -> Iterable[Batch[Completion]]:
        """Yield the batches of one model after the other, each cut from its own calls."""
        for number, model in enumerate(self.models):
            own, open_ = ([*self._of(number, calls)] for calls in (shard, wanted))
            if open_:
                yield from model.sample(own, open_, decoding)

    def release(self) -> None:
        """Give back the memory of every model that can."""
        for model in self.models:
            if (heavy := provided(model, Releases)) is not None:
                heavy.release()

    async def aclose(self) -> None:
        """Close what the models hold open on this event loop, such as their servers."""
        for model in self.models:
            if (aclose := getattr(model, "aclose", None)) is not None:
                await aclose()

    def drawn_by(self, sample_index: int) -> int:
        """The number of the model that draws a prompt's completion of this index.

        It is the one that lies furthest behind its share; of equals the first.
        """
        while len(self._order) <= sample_index:
            drawn = len(self._order) + 1
            total = sum(self.weights)
            behind = [
                weight / total * drawn - self._order.count(number)
                for number, weight in enumerate(self.weights)
            ]
            self._order.append(max(range(len(behind)), key=lambda number: behind[number]))
        return self._order[sample_index]

    def _of(
        self, number: int, calls: Sequence[Call[SampleRequest]]
    ) -> Iterator[Call[SampleRequest]]:
        return (call for call in calls if self.drawn_by(call.payload.sample_index) == number)
