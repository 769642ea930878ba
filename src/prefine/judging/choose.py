"""The judge that a configuration names: one of the table, a class of the user's, or a function that scores."""

import inspect
from collections.abc import Callable
from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError

from prefine.config.components import TABLES
from prefine.config.sections import Component
from prefine.errors import ConfigError
from prefine.judges.protocol import ComputedJudge
from prefine.judging.computed import computed
from prefine.judging.functions import FunctionScorer, source_of
from prefine.judging.protocol import Judge, Rater
from prefine.judging.scores import ScoreJudge
from prefine.ranking.protocol import StrategyFacts

_MEMBERS: dict[type, tuple[str, ...]] = {
    Judge: ("fingerprint", "first_slot_bias", "notes", "check", "judge"),
    ComputedJudge: ("fingerprint", "first_slot_bias", "check", "compare"),
}
_TEMPERATURE = TypeAdapter(Annotated[float, Field(gt=0, strict=True, allow_inf_nan=False)])


def make_judge(component: Component, *, where: str) -> Judge:
    """The judge, its options checked.

    A function `(prompt, completion) -> float` of the user's is a scorer; beside its own
    keyword-only arguments it takes `temperature`, the score gap that makes the odds e to 1.

    Raises:
        ConfigError: The name or an option is wrong, or it is no judge.
    """
    target = component.lookup("judge", where=where)
    if component.name not in TABLES["judge"] and not inspect.isclass(target):
        if not callable(target):
            raise ConfigError(
                f"{where}.name: {component.name!r} is a {type(target).__name__}, no function and "
                "no class"
            )
        return _scoring(component, where)
    return as_judge(
        component.resolve("judge", where=where)(), what=f"{where}.name: {component.name!r}"
    )


def as_judge(made: object, *, what: str) -> Judge:
    """An object as the stages ask it: a judge already, one that compares, or a function that scores.

    Args:
        made: The object.
        what: What to call it in a message.

    Raises:
        ConfigError: It is none of them; the message says what is missing.
    """
    if inspect.isclass(made):
        raise ConfigError(f"{what} is a class; give an object of it")
    kind = Judge if _has(made, "judge") else ComputedJudge
    needed = _MEMBERS[kind]
    missing = [name for name in needed if not _has(made, name)]
    if not missing:
        judge: Any = made
        whole: Judge = judge if kind is Judge else computed(judge)
        return whole
    if callable(made) and "compare" in missing:
        return score_judge(made)
    raise ConfigError(
        f"{what} is no judge: it has no {', '.join(missing)}. A judge has {', '.join(needed)}, or "
        "is a function "
        "(prompt, completion) -> float"
    )


def choose_rater(
    judge: Judge,
    scorer: Judge | None,
    *,
    strategy: str,
    facts: StrategyFacts,
    section: str = "rank.",
) -> Rater | None:
    """Who gives the ratings that a strategy asks for: the scorer, or the judge itself; None if it asks for none.

    Args:
        judge: The judge.
        scorer: The judge of `rank.scorer`, if there is one.
        strategy: What the configuration calls the strategy.
        facts: The strategy's facts.
        section: What stands before the names of settings in a message.

    Raises:
        ConfigError: Ratings are asked for and nobody can give them, or the scorer is not asked for
            any.
    """
    remedies = (
        f"give {section}scorer, such as {{name: reward, path: …}} or a function (prompt, "
        "completion) -> float as "
        "my_module:my_function"
    )
    if "ratings" not in facts.asks:
        if scorer is not None:
            raise ConfigError(
                f"{section}scorer: strategy {strategy!r} asks for no ratings, so this scorer "
                "would never be used; take "
                f"it out, or choose a {section}strategy that asks for ratings, such as "
                "score_then_duel"
            )
        return None
    if scorer is None:
        if isinstance(judge, Rater):
            return judge
        raise ConfigError(
            f"{section}strategy: {strategy!r} asks for ratings, and the judge only compares; "
            f"{remedies}, or a reward "
            f"model as {section}judge"
        )
    if not isinstance(scorer, Rater):
        raise ConfigError(
            f"{section}scorer: this judge only compares, it cannot rate one completion; {remedies}"
        )
    return scorer


def who_is_asked(judge: Judge, scorer: Judge | None, facts: StrategyFacts) -> list[Judge]:
    """Judge and scorer, as far as a strategy asks them: the judge of one that only rates is idle beside a scorer."""
    if scorer is None:
        return [judge]
    return [judge, scorer] if "duels" in facts.asks else [scorer]


def _has(made: object, name: str) -> bool:
    """Whether it has the member, without computing it: a fingerprint may read all weights of a model."""
    try:
        inspect.getattr_static(made, name)
    except AttributeError:
        return False
    return True


def score_judge(
    function: Callable[..., float | None], *, name: str = "", temperature: float = 1.0
) -> ScoreJudge:
    """A function as a judge."""
    called = name or getattr(function, "__qualname__", type(function).__name__)
    options = getattr(function, "keywords", {})
    scorer = FunctionScorer(function, name=called, options=options, source=source_of(function))
    return ScoreJudge(scorer, temperature=temperature)


def _scoring(component: Component, where: str) -> ScoreJudge:
    options = component.options
    try:
        temperature = _TEMPERATURE.validate_python(options.pop("temperature", 1.0))
    except ValidationError as error:
        raise ConfigError(f"{where}.temperature: {error.errors()[0]['msg']}") from error
    bound = Component(name=component.name, **options).resolve("judge", where=where)
    _check_signature(bound.func, f"{where}.name: {component.name!r}")
    return score_judge(bound, name=component.name, temperature=temperature)


def _check_signature(function: Callable[..., object], what: str) -> None:
    """A scorer takes two positional arguments, and gives its score at once."""
    if inspect.iscoroutinefunction(function):
        raise ConfigError(f"{what} is an async function; a scorer gives its score at once")
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = inspect.signature(function).parameters.values()
    names = [p.name for p in parameters if p.kind in kinds]
    if len(names) != 2 and not any(p.kind is inspect.Parameter.VAR_POSITIONAL for p in parameters):
        raise ConfigError(
            f"{what} takes ({', '.join(names)}); a scorer takes (prompt, completion), and options "
            "after a *"
        )
