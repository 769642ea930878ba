"""The section `sweep` of a configuration: one run for each of many settings, and for each seed."""

import itertools
import json
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field, JsonValue, Strict, model_validator

from prefine.config.base import Section, Seed
from prefine.config.checking import checked
from prefine.errors import ConfigError

Path_ = Annotated[str, Field(pattern=r"^[a-z_]+(\.[A-Za-z0-9_]+)+$")]
Values = Annotated[tuple[JsonValue, ...], Strict(False), Field(min_length=1)]
Setting = Mapping[str, JsonValue]
"""The values of one setting by config path, such as {"train.regularizer_weight": 0.05}."""


class SweepConfig(Section):
    """Section `sweep`: `grid` combines all values of its paths, `list` has settings one by one.

    Both together are one list of settings. Each runs once for every seed, which is written to the
    paths of `seed_paths`. `baseline` names the setting that others are compared with, by some or
    all of its values; where several settings have these, each setting is compared with the one of
    them that agrees with it in all other paths. Without a baseline, that is the first setting.
    """

    grid: dict[Path_, Values] = Field(default_factory=dict)
    list: Annotated[tuple[dict[Path_, JsonValue], ...], Strict(False)] = ()
    seeds: Annotated[tuple[Seed, ...], Strict(False), Field(min_length=1)] | None = None
    seed_paths: Annotated[tuple[Path_, ...], Strict(False)] = ("train.seed",)
    baseline: dict[Path_, JsonValue] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _has_settings(self) -> "SweepConfig":
        if not self.grid and not self.list:
            raise ValueError("name what to vary: grid: {train.learning_rate: [1e-6, 3e-6]}")
        texts = [json.dumps(one, sort_keys=True) for one in self.settings]
        if repeated := next((text for text in texts if texts.count(text) > 1), None):
            raise ValueError(f"the setting {repeated} is there twice; take one out")
        if self.seeds is not None and len(set(self.seeds)) < len(self.seeds):
            raise ValueError("a seed is there twice; take one out")
        _ = self.baselines
        return self

    @property
    def settings(self) -> tuple[Setting, ...]:
        """All settings: the grid, its last path changing fastest, then the list."""
        columns = [[(path, value) for value in values] for path, values in self.grid.items()]
        grid = [dict(one) for one in itertools.product(*columns)] if columns else []
        return (*grid, *self.list)

    @property
    def baselines(self) -> tuple[int, ...]:
        """The place among the settings of each setting's baseline; that of a baseline is its own.

        Raises:
            ValueError: No setting has the values of `baseline`, or all have; or several have, and
                not exactly one of them agrees with another setting in all other paths.
        """
        settings = self.settings
        if not self.baseline:
            return (0,) * len(settings)
        fitting = [i for i, one in enumerate(settings) if self.baseline.items() <= one.items()]
        if not fitting:
            raise ValueError(f"baseline: no setting has {json.dumps(self.baseline)}")
        if len(fitting) == 1:
            return (fitting[0],) * len(settings)
        if len(fitting) == len(settings):
            raise ValueError(
                f"baseline: {json.dumps(self.baseline)} fits every setting, so that none is left "
                f"to compare: {', '.join(map(json.dumps, settings))}; name more values in it"
            )
        found = []
        for index, setting in enumerate(settings):
            agreeing = [i for i in fitting if self._others(settings[i]) == self._others(setting)]
            if index not in fitting and len(agreeing) != 1:
                several = ", ".join(json.dumps(settings[i]) for i in agreeing or fitting)
                raise ValueError(
                    f"baseline: {json.dumps(self.baseline)} fits several settings, and "
                    f"{'more than one' if agreeing else 'none'} of them agrees with "
                    f"{json.dumps(setting)} in the other paths: {several}; name more values in the "
                    "baseline, so that it fits one, or give every setting the same paths"
                )
            found.append(index if index in fitting else agreeing[0])
        return tuple(found)

    def _others(self, setting: Setting) -> Setting:
        """The values of a setting at paths that the baseline does not name."""
        return {path: value for path, value in setting.items() if path not in self.baseline}


def read_sweep(values: dict[str, Any], *, where: str) -> SweepConfig:
    """Take the section `sweep` out of the values of a configuration file.

    Raises:
        ConfigError: There is none, or one that is not allowed.
    """
    section = values.pop("sweep", None)
    if section is None:
        raise ConfigError(
            f"{where}: there is no section sweep; add one, such as\n"
            "  sweep: {grid: {train.regularizer_weight: [0, 0.01, 0.05]}, seeds: [0, 1, 2]}"
        )
    return checked(SweepConfig, section, where=f"{where}: sweep")
