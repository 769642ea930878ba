"""The policy and the pairs as training reads them."""

from pathlib import Path

from prefine import chat
from prefine.config import Component, RunConfig
from prefine.errors import ConfigError
from prefine.models.hf import HfModel
from prefine.store.rows import pair_of
from prefine.store.tables import parts, read_part
from prefine.training.examples import ExampleSet, make_examples


def trainable(component: Component, *, where: str) -> HfModel:
    """The backend, if its weights are at hand.

    Raises:
        ConfigError: It is a backend without weights.
    """
    backend = component.resolve("backend", where=where)()
    if not isinstance(backend, HfModel):
        raise ConfigError(f"{where}.name: {component.name!r} has no weights to train; use {{name: hf, path: FOLDER}}")
    return backend


def read_examples(table: Path, policy: HfModel, config: RunConfig) -> ExampleSet:
    """The pairs of a table as the policy reads them."""
    settings = config.train
    pairs = (pair_of(row) for path in parts(table) for row in read_part(path))
    return make_examples(
        pairs,
        policy.tokenizer,
        stop_token_id=chat.stop_token_id(policy.tokenizer, policy.generation_config),
        max_prompt_tokens=settings.max_prompt_tokens,
        max_completion_tokens=settings.max_completion_tokens,
        train_on_truncated=settings.train_on_truncated,
    )
