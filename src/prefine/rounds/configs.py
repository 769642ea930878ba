"""The configuration of each round, derived from that of all."""

from pathlib import Path
from typing import Any

from prefine.config.base import Component
from prefine.config.references import INITIAL
from prefine.config.rounds import (
    PLACEHOLDER,
    LaterPrompts,
    LineageConfig,
    PartConfig,
    RoundsConfig,
    round_name,
)
from prefine.config.sections import Decoding, RunConfig
from prefine.errors import ConfigError
from prefine.run.manifests import begun_config

AnyReference = str | Component | tuple[str | Component, ...]
"""The type of `train.reference`."""

_PLAYGROUND, _DTYPE_OF_PLAYGROUND = "playground", "float32"


class RoundsPlan:
    """The rounds of a configuration.

    Args:
        config: With a section `rounds`. What is left open there is settled as the run was begun:
            the number of parts, and that an adapter is saved merged.

    Raises:
        ConfigError: The configuration cannot be walked in rounds.
    """

    def __init__(self, config: RunConfig) -> None:
        assert config.rounds is not None, "checked by the caller"
        self.config = _settled(config, config.rounds)
        assert self.config.rounds is not None, "kept"
        self.settings: RoundsConfig = self.config.rounds
        _refuse_what_has_no_next_round(self.config, self.settings)

    @property
    def numbers(self) -> range:
        """The numbers of the rounds, from 1."""
        return range(1, self.settings.count + 1)

    def name(self, number: int) -> str:
        """The folder of a round within that of all."""
        return round_name(number)

    def folder(self, number: int) -> Path:
        """The run folder of a round."""
        return self.config.run_dir / self.name(number)

    def config_of(self, number: int, *, planned: bool = False) -> RunConfig:
        """The configuration of a round, an ordinary run.

        Args:
            number: Of the round, from 1.
            planned: Put the initial policy in the place of one that is not trained yet: such a
                configuration can be checked, and not run.
        """
        config, settings = self.config, self.settings
        initial, first = config.policy, number == 1
        policy = initial
        if not (first or planned):
            policy = trained_at(
                initial, self.folder(number - 1).resolve() / "model", self.name(number - 1)
            )
        assert config.sample is not None and config.prompts is not None, "checked"
        sample: dict[str, Any] = {"seed": config.sample.seed + number - 1}
        if settings.prompts == "split":
            assert settings.parts is not None, "settled"
            part = PartConfig(number=1 + (number - 1) % settings.parts, of=settings.parts)
            sample["part"] = part
        if settings.sample_from != "current" and not first:
            sample["model"] = self._drawing(policy)
        changes: dict[str, Any] = {
            "run_dir": self.folder(number),
            "policy": policy,
            "prompts": self._prompts(number),
            "sample": config.sample.model_copy(update=sample),
            "evaluate": config.evaluate.model_copy(
                update={
                    # The same settings and seeds in every round, so that answers are paired.
                    "decoding": config.evaluate.decoding or _decoding(config.sample),
                    "baseline": "initial" if first else initial,
                }
            ),
            "report": config.report.model_copy(
                update={"title": f"{config.report.title}: round {number}"}
            ),
            "rounds": None,
            "lineage": LineageConfig(
                round=number,
                initial=initial,
                optimizer="reset" if first else settings.optimizer,
                budget_since="round" if first else settings.budget_since,
            ),
        }
        if not first and settings.replay is not None:
            changes["pair"] = config.pair.model_copy(update={"replay": settings.replay})
        if not first and settings.reference == "initial":
            changes["train"] = config.train.model_copy(
                update={"reference": _with_model(config.train.reference, initial)}
            )
        return config.model_copy(update=changes)

    def _drawing(self, current: Component) -> Component:
        """The model that draws completions, where that is not the policy alone."""
        initial, drawn = self.config.policy, self.settings.sample_from
        if isinstance(drawn, str):
            return initial
        models = {"current": current, "initial": initial}
        return Component(
            name="mixture",
            models=[models[one.policy].model_dump(mode="json") for one in drawn],
            weights=[one.weight for one in drawn],
        )

    def _prompts(self, number: int) -> Component | None:
        later = self.settings.prompts
        if number == 1 or not isinstance(later, LaterPrompts):
            return self.config.prompts
        first = self.config.prompts
        # Rows of all rounds are read alike.
        options = first.options if first is not None and first.name == "file" else {}
        path = later.path.replace(PLACEHOLDER, str(number))
        return Component(name="file", **(options | {"path": path}))


def trained_at(policy: Component, folder: Path, label: str) -> Component:
    """The backend of a model that was trained from a policy, with the policy's own settings."""
    if policy.name == _PLAYGROUND:
        return Component(name="hf", path=str(folder), dtype=_DTYPE_OF_PLAYGROUND, label=label)
    options = policy.options | {"path": str(folder)}
    if policy.name in ("hf", "served"):
        options["label"] = label
    return Component(name=policy.name, **options)


def _with_model(reference: AnyReference, initial: Component) -> AnyReference:
    """The references with the first round's policy by its name, where they have `initial`."""
    if isinstance(reference, tuple):
        return tuple(initial if one == INITIAL else one for one in reference)
    return initial if reference == INITIAL else reference


def _settled(config: RunConfig, settings: RoundsConfig) -> RunConfig:
    """The configuration with what the file leaves open, as the run was begun."""
    changes: dict[str, Any] = {}
    if settings.prompts == "split" and settings.parts is None:
        begun = begun_config(config.run_dir).get("rounds") or {}
        parts = begun.get("parts") or settings.count
        changes["rounds"] = settings.model_copy(update={"parts": parts})
    adapter = config.train.adapter
    if adapter is not None and "save" not in adapter.model_fields_set:
        # The next round trains on top of it: a folder has to hold those weights.
        merged = adapter.model_copy(update={"save": "merged"})
        changes["train"] = config.train.model_copy(update={"adapter": merged})
    return config.model_copy(update=changes)


def _refuse_what_has_no_next_round(config: RunConfig, settings: RoundsConfig) -> None:
    """Check the sections that rounds have to change.

    Raises:
        ConfigError: They would not mean anything in a second round.
    """
    problem = None
    if config.lineage is not None:
        problem = "lineage: is written by prefine into the rounds of a run; leave it out"
    elif config.prompts is None or config.sample is None:
        problem = (
            "rounds: every round samples answers of its own, so they need prompts: {name: file, "
            "path: …} and sample; this configuration starts behind them"
        )
    elif config.sample.model is not None:
        problem = (
            "sample.model: rounds draw from the policy itself: a policy behind a URL cannot be "
            "replaced between rounds. Leave sample.model out, and name the policy as {name: hf, "
            "path: FOLDER}, or as {name: served, path: FOLDER, engine: …} to have it served "
            "(rounds.sample_from: initial draws from the first)"
        )
    elif config.pair.replay is not None:
        problem = "pair.replay: write rounds.replay, which is for all rounds but the first"
    elif config.sample.part is not None:
        problem = "sample.part: rounds.prompts says which prompts a round has; leave it out"
    elif config.policy.name != _PLAYGROUND and "path" not in config.policy.options:
        problem = (
            f"policy.name: {config.policy.name!r} has no path that could be that of the next "
            "round's model (a policy behind a URL cannot be replaced between rounds); use "
            "{name: hf, path: FOLDER}, or {name: served, path: FOLDER, engine: …}"
        )
    elif config.evaluate.model != "trained" or config.evaluate.baseline != "initial":
        problem = (
            "evaluate: every round is compared with the initial policy and with earlier rounds; "
            "leave evaluate.model and evaluate.baseline out"
        )
    elif settings.stop is not None and config.evaluate.prompts is None:
        problem = (
            "rounds.stop: needs the win rate over the round before; give evaluate.prompts, or "
            "leave rounds.stop out"
        )
    elif settings.stop is not None and config.evaluate.judge is None and config.rank is None:
        problem = (
            "rounds.stop: needs the judged win rate over the round before, and there is no judge; "
            "give evaluate.judge, or leave rounds.stop out"
        )
    elif settings.optimizer == "keep" and config.train.adapter is not None:
        problem = (
            "rounds.optimizer: keep, and train.adapter: each round has an adapter of its own, to "
            "which the moments of another do not belong; use reset"
        )
    elif settings.reference == "previous" and all(
        one.model is not None for one in config.train.references
    ):
        problem = (
            "rounds.reference: previous, and train.reference names a model; leave one of the two "
            "out"
        )
    elif sum(one.model in (None, config.policy) for one in config.train.references) > 1:
        problem = (
            "train.reference: names the policy of the first round beside initial, which is the "
            "same model; name each once"
        )
    elif config.train.reward is not None:
        problem = (
            "train.reward: trains a reward model, which writes no answers that a next round could "
            "train on; leave rounds out"
        )
    elif (
        config.train.adapter is not None
        and config.train.adapter.save == "adapter"
        and settings.count > 1
    ):
        problem = (
            "train.adapter.save: adapter: the next round trains on top of it, so no folder would "
            "hold the weights that its own adapter belongs to; use save: merged"
        )
    if problem is not None:
        raise ConfigError(problem)


def _decoding(settings: Decoding) -> Decoding:
    """The decoding settings of a section that has more of them."""
    return Decoding(**{name: getattr(settings, name) for name in Decoding.model_fields})
