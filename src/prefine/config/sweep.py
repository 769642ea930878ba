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
    all of its values; without it, that is the first.
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
        if not any(self._is_baseline(one) for one in self.settings):
            raise ValueError(f"baseline: no setting has {json.dumps(self.baseline)}")
        return self

    @property
    def settings(self) -> tuple[Setting, ...]:
        """All settings: the grid, its last path changing fastest, then the list."""
        columns = [[(path, value) for value in values] for path, values in self.grid.items()]
        grid = [dict(one) for one in itertools.product(*columns)] if columns else []
        return (*grid, *self.list)

    @property
    def baseline_index(self) -> int:
        """The place of the baseline among the settings."""
        return next(i for i, one in enumerate(self.settings) if self._is_baseline(one))

    def _is_baseline(self, setting: Setting) -> bool:
        return self.baseline.items() <= setting.items()


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
