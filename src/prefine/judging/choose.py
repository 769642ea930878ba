"""The judge that a configuration names: one of the table, a class of the user's, or a function that scores."""

import inspect
from typing import Annotated

from pydantic import Field, TypeAdapter, ValidationError

from prefine.config import Component
from prefine.errors import ConfigError
from prefine.judges.base import ComputedJudge
from prefine.judging.base import Judge
from prefine.judging.computed import ComputedJudging
from prefine.judging.functions import FunctionScorer, source_of
from prefine.judging.scores import ScoreJudge
from prefine.registry import TABLES

_TEMPERATURE = TypeAdapter(Annotated[float, Field(gt=0, strict=True, allow_inf_nan=False)])


def make_judge(component: Component, *, where: str) -> Judge:
    """The judge, its options checked.

    A function `(prompt, completion) -> float` of the user's is a scorer; beside its own keyword-only arguments it takes
    `temperature`, the score gap that makes the odds e to 1.

    Raises:
        ConfigError: The name or an option is wrong, or it is no judge.
    """
    target = component.lookup("judge", where=where)
    if inspect.isfunction(target) and component.name not in TABLES["judge"]:
        return _scoring(component, where)
    made = component.resolve("judge", where=where)()
    if callable(getattr(made, "judge", None)):
        judge: Judge = made
        return judge
    if isinstance(made, ComputedJudge):
        return ComputedJudging(made)
    raise ConfigError(
        f"{where}.name: {component.name!r} is no judge: it needs fingerprint, first_slot_bias, check and compare, or "
        "be a function (prompt, completion) -> float"
    )


def _scoring(component: Component, where: str) -> ScoreJudge:
    options = component.options
    try:
        temperature = _TEMPERATURE.validate_python(options.pop("temperature", 1.0))
    except ValidationError as error:
        raise ConfigError(f"{where}.temperature: {error.errors()[0]['msg']}") from error
    bound = Component(name=component.name, **options).resolve("judge", where=where)
    function = bound.func
    scorer = FunctionScorer(bound, name=component.name, options=options, source=source_of(function))
    return ScoreJudge(scorer, temperature=temperature)
