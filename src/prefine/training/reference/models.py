"""The fixed models that the losses compare with: loaded and scored one after the other."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from prefine.config.training import TrainConfig
from prefine.losses.protocol import Need
from prefine.training.forward.passes import Forward
from prefine.training.items import OtherTokens, TokenizedItem
from prefine.training.reference.cache import ReferenceCache, ids_hash
from prefine.training.reference.prepare import ReferenceValues, forward_of, prepare_model

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class ReferenceModel:
    """A fixed model that the losses compare with.

    Args:
        load: Loads it; None is the policy at step 0.
        weight: Its weight; those of all references sum to 1.
        other_tokens: Has the items' texts in its own tokens; None where these are the policy's.
    """

    load: "Callable[[], PreTrainedModel] | None" = None
    weight: float = 1.0
    other_tokens: OtherTokens | None = None

    def items(self, items: Sequence[TokenizedItem]) -> Sequence[TokenizedItem]:
        """The items as it reads them."""
        return items if self.other_tokens is None else [self.other_tokens.item(i) for i in items]


@dataclass(frozen=True)
class References:
    """The values of items under the references, of which no two are in memory at a time.

    Args:
        models: In the order of the configuration.
        config: The settings.
        needs: The values that the losses read.
        cache: Where values are looked up and kept.
    """

    models: Sequence[ReferenceModel]
    config: TrainConfig
    needs: frozenset[Need]
    cache: ReferenceCache
    _known: dict[tuple[int, str], ReferenceValues] = field(default_factory=dict)

    @property
    def are_initial(self) -> bool:
        """True if the policy at step 0 is the first reference."""
        return self.models[0].load is None

    def score(self, sets: Sequence[Sequence[TokenizedItem]]) -> None:
        """Score sets of items under each model, which is let go before the next one is loaded.

        Raises:
            ConfigError: An item is longer than a model reads.
        """
        for number, model in enumerate(self.models):
            for key, values in self._score(number, model, sets):
                self._known[number, key] = values

    def values(self, items: Sequence[TokenizedItem]) -> list[ReferenceValues | None]:
        """The values of items under each model, None for the policy at step 0.

        Items that were not scored before are scored now, and nothing is kept of them here.

        Raises:
            ConfigError: An item is longer than a model reads.
        """
        key = ids_hash(items)
        found: list[ReferenceValues | None] = []
        for number, model in enumerate(self.models):
            values = self._known.get((number, key))
            if values is None:
                values = next((new for _, new in self._score(number, model, [items])), None)
            found.append(values)
        return found

    def under(self, forward: Forward, items: Sequence[TokenizedItem]) -> list[ReferenceValues]:
        """The values of items under a model that takes the place of the one reference."""
        return [self._values(forward, items, first=True)]

    def _score(
        self, number: int, model: ReferenceModel, sets: Sequence[Sequence[TokenizedItem]]
    ) -> list[tuple[str, ReferenceValues]]:
        """The values of each set that is not empty, by its hash; none of the policy's."""
        sets = [items for items in sets if items]
        if model.load is None or not sets:
            return []
        loaded = model.load()
        theirs = [model.items(items) for items in sets]
        every = [item for items in theirs for item in items]
        prepare_model(loaded, every, self.config)
        forward, _ = forward_of(
            loaded, every, self.config, score_prompts="prompt" in self.needs and not number
        )
        return [
            (ids_hash(items), self._values(forward, read, first=not number))
            for items, read in zip(sets, theirs, strict=True)
        ]

    def _values(
        self, forward: Forward, items: Sequence[TokenizedItem], *, first: bool
    ) -> ReferenceValues:
        tokens = self.cache.tokens(forward, items)
        cross_logps = None
        if first and "mismatched" in self.needs:
            # Here and not above: few losses need it.
            from prefine.training.cross_prompt import cross_prompt_items

            across = cross_prompt_items(items)
            prepare_model(forward.model, across, self.config)
            cross_logps = self.cache.tokens(forward, across).mean_logps()
        kept = tokens if first and self.needs & {"tokens", "prompt"} else None
        return ReferenceValues(tokens.logps(), kept, cross_logps)
