"""Choose the judge and the rater that a configuration names, and check them."""

import inspect
import re
from collections.abc import Callable, Mapping
from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError

from prefine.config.base import Component
from prefine.config.components import TABLES, bind
from prefine.errors import ConfigError
from prefine.judges.protocol import ComputedJudge
from prefine.judging.protocol import Judge, Rater
from prefine.ranking.protocol import StrategyFacts

_MEMBERS: dict[type, tuple[str, ...]] = {
    Judge: ("fingerprint", "first_slot_bias", "notes", "check", "judge"),
    ComputedJudge: ("fingerprint", "first_slot_bias", "check", "compare"),
}
_TEMPERATURE = TypeAdapter(Annotated[float, Field(gt=0, strict=True, allow_inf_nan=False)])


def make_judge(component: Component, *, where: str) -> Judge:
    """Return the judge that a configuration names: from the table, a class, or a scoring function.

    A function `(prompt, completion) -> float` of the user's is a scorer; beside its own
    keyword-only arguments it takes `temperature`, the score gap that makes the odds e to 1.

    Raises:
        ConfigError: The name or an option is wrong, or it is no judge.
    """
    target = component.lookup("judge", where=where)
    what = f"{where}.name: {component.name!r}"
    if component.name in TABLES["judge"] or inspect.isclass(target):
        return as_judge(component.resolve("judge", where=where)(), what=what)
    if not callable(target):
        raise ConfigError(f"{what} is a {type(target).__name__}, no function and no class")
    return _scoring(component, where, what)


def as_judge(made: object, *, what: str) -> Judge:
    """Return an object as the stages ask it: a judge, a judge that computes, or a scoring function.

    Args:
        made: The object.
        what: Its name in a message.

    Raises:
        ConfigError: It is none of them; the message says what is missing.
    """
    if inspect.isclass(made):
        raise ConfigError(f"{what} is a class; give an object of it")
    # Imported here, because every run checks its configuration and few have such judges.
    from prefine.judging.computed import JournaledJudge
    from prefine.judging.scores import function_judge

    kind = Judge if _has(made, "judge") else ComputedJudge
    needed = _MEMBERS[kind]
    missing = [name for name in needed if not _has(made, name)]
    judge: Any = made
    if not missing:
        whole: Judge = judge if kind is Judge else JournaledJudge(judge)
        return whole
    if callable(made) and "compare" in missing:
        return function_judge(judge, name=getattr(made, "__qualname__", type(made).__name__))
    raise ConfigError(
        f"{what} is no judge: it has no {', '.join(missing)}. A judge has {', '.join(needed)}, or "
        "is a function (prompt, completion) -> float"
    )


def choose_rater(
    judge: Judge,
    scorer: Judge | None,
    *,
    strategy: str,
    facts: StrategyFacts,
    section: str = "rank.",
) -> Rater | None:
    """Return the scorer, or the judge itself, if a strategy asks for ratings; None if it does not.

    Args:
        judge: The judge.
        scorer: The judge of `rank.scorer`, if there is one.
        strategy: The strategy's name in the configuration.
        facts: The strategy's facts.
        section: Prefix of the names of settings in a message.

    Raises:
        ConfigError: The strategy asks for ratings and nobody can give them, or there is a scorer
            and it asks for none.
    """
    if "ratings" not in facts.asks:
        if scorer is not None:
            raise ConfigError(
                f"{section}scorer: strategy {strategy!r} asks for no ratings, so this scorer would "
                f"never be used; take it out, or choose a {section}strategy that asks for ratings, "
                "such as score_then_duel"
            )
        return None
    rater = judge if scorer is None else scorer
    if isinstance(rater, Rater):
        return rater
    remedy = (
        f"give {section}scorer, such as {{name: reward, path: …}} or a function (prompt, "
        "completion) -> float as my_module:my_function"
    )
    if scorer is not None:
        raise ConfigError(
            f"{section}scorer: this judge only compares, it cannot rate one completion; {remedy}"
        )
    raise ConfigError(
        f"{section}strategy: {strategy!r} asks for ratings, and the judge only compares; {remedy}, "
        f"or a reward model as {section}judge"
    )


def judges_asked(judge: Judge, scorer: Judge | None, facts: StrategyFacts) -> list[Judge]:
    """Return the judges that a strategy asks; one that only rates does not need the judge."""
    if scorer is None:
        return [judge]
    return [judge, scorer] if "duels" in facts.asks else [scorer]


def same_family(
    policy: Component,
    judge: Component,
    *,
    role: str = "judge",
    writer: str = "policy",
    result: str = "win rate",
) -> str | None:
    """Return a note if judge and writer are of one model family, by the models' names.

    Models prefer what they would have written themselves.

    Args:
        policy: Wrote the answers.
        judge: Judges or rates them.
        role: Its name in the note.
        writer: The name of who wrote the answers.
        result: The name of what the judge decides.
    """
    asked = judge.options if judge.name == "reward" else judge.options.get("model")
    if not isinstance(asked, Mapping):
        return None
    ours, theirs = _model_name(policy.options), _model_name(asked)
    family = _family(ours)
    if not ours or not theirs or (ours != theirs and (family is None or family != _family(theirs))):
        return None
    return (
        f"{role} ({theirs}) and {writer} ({ours}) are of one family; models prefer answers of "
        f"their own kind: compare with another {role} before you trust the {result}"
    )


def _model_name(options: Mapping[str, object]) -> str:
    return str(options.get("model") or options.get("path") or "").rstrip("/")


def _family(name: str) -> str | None:
    """Return the letters that a model's name begins with: qwen of Qwen/Qwen2.5-7B-Instruct."""
    match = re.match(r"[a-z]{3,}", name.rsplit("/", 1)[-1].lower())
    generic = {"model", "models", "checkpoint", "run", "runs", "policy", "judge", "trained"}
    return match[0] if match and match[0] not in generic else None


def _has(made: object, name: str) -> bool:
    """Return True for a member, without computing it: a fingerprint may read a model's weights."""
    try:
        inspect.getattr_static(made, name)
    except AttributeError:
        return False
    return True


def _scoring(component: Component, where: str, what: str) -> Judge:
    from prefine.judging.scores import function_judge

    options = component.options
    try:
        temperature = _TEMPERATURE.validate_python(options.pop("temperature", 1.0))
    except ValidationError as error:
        raise ConfigError(f"{where}.temperature: {error.errors()[0]['msg']}") from error
    bound: Any = component.once(
        "scorer", lambda: bind("judge", component.name, options, where=where)
    )
    _check_signature(bound.func, what)
    return function_judge(bound, name=component.name, temperature=temperature)


def _check_signature(function: Callable[..., object], what: str) -> None:
    """Raise ConfigError unless a function takes two positional arguments and is not async."""
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
