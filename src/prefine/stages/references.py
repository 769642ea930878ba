"""The references of a run: their models, what each reads, and what losses may ask of them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from prefine import chat
from prefine.config.references import WEIGHT, StatedReference
from prefine.config.sections import RunConfig
from prefine.errors import ConfigError, at_config_path
from prefine.losses.facts import bare, needs_of, option_of, parts_of
from prefine.losses.protocol import NEED_WORDS, Need
from prefine.models.capabilities import backend_of
from prefine.models.hf.adapters import base_of
from prefine.models.hf.architecture import check_trainable
from prefine.models.hf.loading import load_model, load_positions, vocabulary
from prefine.models.protocol import HasWeights
from prefine.training.items import OtherTokens, TextReader
from prefine.training.reference.models import ReferenceModel
from prefine.training.relations.choose import configured_losses

_OF_TOKENS: tuple[Need, ...] = ("tokens", "prompt", "mismatched")
"""Needs that a reference with another tokenizer cannot serve: its tokens are not the policy's."""


@dataclass(frozen=True)
class RunReference:
    """A reference of a run.

    Args:
        stated: What the configuration says.
        model: Its backend; None is the policy with its initial weights.
        other_tokens: Reads texts in its own tokens; None where these are the policy's.
    """

    stated: StatedReference
    model: HasWeights | None
    other_tokens: OtherTokens | None = None

    def for_training(self, device: str) -> ReferenceModel:
        """The reference as `training.loop.train` takes it; it is loaded on the device."""
        if self.model is None:
            return ReferenceModel(None, self.stated.weight, self.other_tokens)
        fixed = scored(self.model, device)
        return replace(fixed, weight=self.stated.weight, other_tokens=self.other_tokens)


def scored(model: HasWeights, device: str) -> ReferenceModel:
    """A fixed model as `training.loop.train` takes it; it is loaded on the device."""
    return ReferenceModel(partial(load_model, model.path, dtype="float32", device=device))


def references_of(config: RunConfig) -> tuple[RunReference, ...]:
    """The references that the configuration names, the first one first.

    Raises:
        ConfigError: One is a backend without weights.
    """
    return tuple(
        RunReference(
            one, None if one.model is None else backend_of(one.model, HasWeights, where=one.where)
        )
        for one in config.train.references
    )


def check_weights(
    policy: HasWeights, references: Sequence[RunReference], *, rewards: bool = False
) -> None:
    """Check before any work that the policy can be trained with the references.

    Args:
        policy: The policy.
        references: The references.
        rewards: It is to become a reward model.

    Raises:
        BackendError: A folder has no configuration, or a damaged one.
        ConfigError: Weights cannot be trained, such as quantized ones, or cannot become a reward
            model, or a reference has the policy's tokenizer and no embedding for one of its tokens.
    """
    with at_config_path("policy", "path"):
        check_trainable(policy.path)
        if rewards:
            from prefine.models.hf.reward_head import reward_skeleton

            reward_skeleton(base_of(policy.path) or policy.path)
    for one in references:
        if one.model is None:
            continue
        with at_config_path(one.stated.where, "path"):
            check_trainable(one.model.path)
        largest, rows = max(policy.tokenizer.get_vocab().values()), vocabulary(one.model.path)
        if not reads_other_tokens(policy, one.model) and largest >= rows:
            raise ConfigError(
                f"{one.stated.where}: {one.model.path} cannot read what the policy {policy.path} "
                f"writes (it has no token {largest}); name a reference with the policy's "
                "tokenizer, or leave train.reference out"
            )


def check_references(
    config: RunConfig, policy: HasWeights, references: Sequence[RunReference]
) -> tuple[str, ...]:
    """Check before any work that the losses can read the references; return notes on them.

    Raises:
        ConfigError: There are several for a loss of one, weights that are not read, or one with
            another tokenizer where a loss reads tokens.
    """
    parts = [
        (name, part) for name, loss in configured_losses(config.train) for _, part in parts_of(loss)
    ]
    readers = [part for _, part in parts if "references" in getattr(bare(part), "needs", ())]
    if len(references) > 1 and not readers:
        raise ConfigError(
            f"train.reference: names {len(references)} models, and {parts[0][0]} compares with "
            "one; choose train.loss mrpo, or name one reference"
        )
    for part in readers:
        _check_weights_of(config, str(option_of(part, "weights")))
    notes = []
    for number, one in enumerate(references):
        if one.model is None or not reads_other_tokens(policy, one.model):
            continue
        for name, part in parts if number == 0 else []:
            if read := [need for need in _OF_TOKENS if need in needs_of(part)]:
                raise ConfigError(
                    f"{one.stated.where}: {one.model.path} cannot read what the policy "
                    f"{policy.path} writes (its tokens have other ids), and {name} reads "
                    f"{NEED_WORDS[read[0]]}; name a reference with the policy's tokenizer, or "
                    "choose a loss of whole answers, such as dpo"
                )
        with at_config_path(one.stated.where, "path"):
            chat.check_template(one.model.tokenizer)
        notes.append(
            f"{one.stated.where}: {one.model.path} has another tokenizer than the policy and "
            "scores the same texts in its own tokens"
        )
    return tuple(notes)


def _check_weights_of(config: RunConfig, weights: str) -> None:
    """Check that what a loss of several references weighs them by is there."""
    value = config.train.reference
    stated = value if isinstance(value, tuple) else ()
    if weights != "stated" and any(
        not isinstance(one, str) and one.options.get(WEIGHT) is not None for one in stated
    ):
        raise ConfigError(
            f"train.reference: states a weight, and train.loss.weights {weights!r} computes its "
            "own; leave one of the two out"
        )
    if weights == "example_swapped" and len(stated) != 2:
        raise ConfigError(
            f"train.loss.weights: example_swapped is for 2 references (got {max(1, len(stated))}); "
            "take example"
        )


def reads_held_out(config: RunConfig) -> bool:
    """Return True if a loss weighs references by what they say of held-out pairs."""
    parts = (part for _, loss in configured_losses(config.train) for _, part in parts_of(loss))
    readers = (part for part in parts if "references" in getattr(bare(part), "needs", ()))
    return any(option_of(part, "weights") == "held_out" for part in readers)


def with_their_tokens(
    config: RunConfig, policy: HasWeights, references: Sequence[RunReference]
) -> tuple[RunReference, ...]:
    """The references, those with another tokenizer with what reads texts for them."""
    settings = config.train

    def read_by(model: HasWeights) -> OtherTokens:
        reader = TextReader(
            model.tokenizer,
            stop_token_id=chat.stop_token_id(model.tokenizer, model.generation_config),
            max_prompt_tokens=settings.max_prompt_tokens,
            max_completion_tokens=settings.max_completion_tokens,
            train_on_truncated=settings.train_on_truncated,
        )
        return OtherTokens(reader, load_positions(model.path))

    return tuple(
        one
        if one.model is None or not reads_other_tokens(policy, one.model)
        else replace(one, other_tokens=read_by(one.model))
        for one in references
    )


def reads_other_tokens(policy: HasWeights, model: HasWeights) -> bool:
    """Return True if a model has another tokenizer than the policy."""
    return _words(policy.tokenizer) != _words(model.tokenizer)


def _words(tokenizer: Any) -> dict[str, int]:
    """The ids of all tokens but added ones, whose names differ between models of a family."""
    added = tokenizer.added_tokens_decoder
    return {token: at for token, at in tokenizer.get_vocab().items() if at not in added}
