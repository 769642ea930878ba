"""Names in a configuration → functions and classes, imported on first use.

A component's keyword-only arguments are its configuration: their annotations (with pydantic `Field`
bounds) are checked, their defaults are the vetted setting. To add one: write its file and add a
line to its table, or name your own as `module:attribute` and fork nothing.
"""

import importlib
import inspect
import reprlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from pydantic import BaseModel, ConfigDict, Strict, ValidationError, create_model

from prefine.errors import ConfigError
from prefine.schedules import Schedule

Kind = Literal["loss", "regularizer", "strategy", "judge", "selector", "backend", "source", "gold"]

TABLES: dict[Kind, dict[str, str]] = {
    "loss": {
        "dpo": "prefine.losses.pairs.dpo:dpo",
        "soft_dpo": "prefine.losses.pairs.soft_dpo:soft_dpo",
        "odpo": "prefine.losses.pairs.odpo:odpo",
        "robust": "prefine.losses.pairs.robust:robust",
        "r_dpo": "prefine.losses.pairs.r_dpo:r_dpo",
        "dpo_gamma": "prefine.losses.pairs.dpo_gamma:dpo_gamma",
        "exo": "prefine.losses.pairs.exo:exo",
        "discopop": "prefine.losses.pairs.discopop:discopop",
        "sigmoid_norm": "prefine.losses.pairs.sigmoid_norm:sigmoid_norm",
        "ld_dpo": "prefine.losses.pairs.ld_dpo:ld_dpo",
        "ipo": "prefine.losses.pairs.ipo:ipo",
        "cal_dpo": "prefine.losses.pairs.cal_dpo:cal_dpo",
        "sppo": "prefine.losses.pairs.sppo:sppo",
        "sppo_hard": "prefine.losses.pairs.sppo_hard:sppo_hard",
        "hinge": "prefine.losses.pairs.hinge:hinge",
        "slic": "prefine.losses.pairs.slic:slic",
        "simpo": "prefine.losses.pairs.simpo:simpo",
        "cpo": "prefine.losses.pairs.cpo:cpo",
        "orpo": "prefine.losses.pairs.orpo:orpo",
        "alpha_po": "prefine.losses.pairs.alpha_po:alpha_po",
        "apo_zero": "prefine.losses.pairs.apo_zero:apo_zero",
        "apo_down": "prefine.losses.pairs.apo_down:apo_down",
        "nca": "prefine.losses.pairs.nca:nca",
        "bco": "prefine.losses.pairs.bco:bco",
        "kto_pair": "prefine.losses.pairs.kto_pair:kto_pair",
        "rpo": "prefine.losses.pairs.rpo:rpo",
        "dpop": "prefine.losses.pairs.dpop:dpop",
        "dpo_shift": "prefine.losses.pairs.dpo_shift:dpo_shift",
        "bdpo": "prefine.losses.pairs.bdpo:bdpo",
        "f_dpo": "prefine.losses.pairs.f_dpo:f_dpo",
        "f_dpo_alpha": "prefine.losses.pairs.f_dpo_alpha:f_dpo_alpha",
        "chi_po": "prefine.losses.pairs.chi_po:chi_po",
        "aot": "prefine.losses.pairs.aot:aot",
        "aot_unpaired": "prefine.losses.pairs.aot_unpaired:aot_unpaired",
        "beta_dpo": "prefine.losses.pairs.beta_dpo:beta_dpo",
        "mixture": "prefine.losses.pairs.mixture:mixture",
        "wpo": "prefine.losses.pairs.wpo:wpo",
        "bmc": "prefine.losses.pairs.bmc:bmc",
        "nll": "prefine.losses.regularizers.nll:nll",
    },
    "regularizer": {
        "nll": "prefine.losses.regularizers.nll:nll",
        "budget": "prefine.losses.regularizers.budget:budget",
        "step_budget": "prefine.losses.regularizers.step_budget:step_budget",
    },
    "strategy": {
        "iterative": "prefine.ranking.strategies.iterative:iterative",
        "knockout": "prefine.ranking.strategies.knockout:knockout",
        "minmax": "prefine.ranking.strategies.minmax:minmax",
        "insertion": "prefine.ranking.strategies.insertion:insertion",
        "merge": "prefine.ranking.strategies.merge:merge",
        "round_robin": "prefine.ranking.strategies.round_robin:round_robin",
        "circulant": "prefine.ranking.strategies.circulant:circulant",
        "swiss": "prefine.ranking.strategies.swiss:swiss",
        "halving": "prefine.ranking.strategies.halving:halving",
        "top_two": "prefine.ranking.strategies.top_two:top_two",
        "eubo": "prefine.ranking.strategies.eubo:eubo",
        "pointwise": "prefine.ranking.strategies.pointwise:pointwise",
        "score_then_duel": "prefine.ranking.strategies.score_then_duel:score_then_duel",
    },
    "judge": {
        "playground": "prefine.judges.playground:PlaygroundJudge",
        "recorded": "prefine.judges.recorded:RecordedJudge",
        "pairwise": "prefine.judging.pairwise:PairwiseJudge",
        "reward": "prefine.judging.reward:reward",
    },
    "selector": {
        "best_vs_random": "prefine.pairing.selectors.best_vs:best_vs_random",
        "best_vs_runner_up": "prefine.pairing.selectors.best_vs:best_vs_runner_up",
        "best_vs_last_loser": "prefine.pairing.selectors.best_vs:best_vs_last_loser",
        "best_vs_worst": "prefine.pairing.selectors.best_vs:best_vs_worst",
        "best_vs_mu_minus_2sigma": "prefine.pairing.selectors.best_vs:best_vs_mu_minus_2sigma",
        "all_pairs": "prefine.pairing.selectors.all_pairs:all_pairs",
        "rejection_sampling": "prefine.pairing.selectors.rejection_sampling:rejection_sampling",
        "joint": "prefine.pairing.selectors.joint:joint",
        "lists": "prefine.pairing.selectors.lists:lists",
    },
    "backend": {
        "hf": "prefine.models.hf.backend:HfModel",
        "openai": "prefine.models.openai.backend:OpenAIModel",
        "playground": "prefine.models.playground:playground",
        "scripted": "prefine.models.scripted:ScriptedModel",
    },
    "source": {
        "file": "prefine.data.sources:file",
        "hub": "prefine.data.hub:hub",
        "playground": "prefine.data.sources:playground",
    },
    "gold": {
        "playground": "prefine.playground.world:gold_parts",
    },
}

# Options that people look for at a selector, and where they are.
SHARED_BY_SELECTORS = {
    **{
        name: f"pair.{name}"
        for name in (
            *(
                "min_gap",
                "min_p_chosen",
                "max_length_ratio",
                "length_penalty",
                "drop_truncated",
                "pairs_per_prompt",
            ),
            *("held_out_prompts", "labels", "seed"),
        )
    },
    "max_pairs": "pair.pairs_per_prompt",
}


def suggest(word: str, known: Mapping[str, Any] | list[str]) -> str:
    """A hint for a mistyped word: the nearest known one, and all of them."""
    near = get_close_matches(word, list(known), n=1)
    return (f"did you mean {near[0]!r}? " if near else "") + "Allowed: " + ", ".join(sorted(known))


def lookup(kind: Kind, name: str, *, where: str) -> Any:
    """The component called `name`, imported now.

    Raises:
        ConfigError: The name is in no table and is no importable `module:attribute`.
    """
    target = TABLES[kind].get(name, name)
    if ":" not in target:
        raise ConfigError(
            f"{where}.name: unknown {kind} {name!r}; {suggest(name, TABLES[kind])}, or "
            "module:attribute"
        )
    module_name, _, attribute = target.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if name in TABLES[kind]:
            raise ConfigError(
                f"{where}: {kind} {name!r} needs the package {error.name!r}; install prefine[train]"
            ) from error
        raise ConfigError(
            f"{where}.name: cannot import {module_name!r} of {name!r}: {error}; "
            "put the folder of your module on PYTHONPATH"
        ) from error
    except (ImportError, SyntaxError, ValueError) as error:
        raise ConfigError(
            f"{where}.name: importing {module_name!r} of {name!r} fails: {error}"
        ) from error
    try:
        return getattr(module, attribute)
    except AttributeError as error:
        raise ConfigError(f"{where}.name: module {module_name!r} has no {attribute!r}") from error


def options_model(component: Callable[..., Any], *, given: tuple[str, ...] = ()) -> type[BaseModel]:
    """The pydantic model of a component's keyword-only arguments, without those that are `given` by the caller."""
    function = _signed(component)
    hints = get_type_hints(function, include_extras=True)
    fields: dict[str, Any] = {
        name: (
            _as_written(hints.get(name, Any)),
            ... if parameter.default is inspect.Parameter.empty else parameter.default,
        )
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY and name not in given
    }
    return create_model(
        f"{getattr(component, '__name__', 'component')}_options",
        __config__=ConfigDict(extra="forbid", arbitrary_types_allowed=True, allow_inf_nan=False),
        **fields,
    )


@dataclass(frozen=True)
class Nested:
    """In an annotation: the option is itself a component, `{name: …}` with options of its own."""

    kind: Kind


def bind(
    kind: Kind, name: str, options: Mapping[str, Any], *, where: str, given: tuple[str, ...] = ()
) -> Callable[..., Any]:
    """The component with its options checked and filled in.

    Args:
        kind: Which table.
        name: A table's name, or `module:attribute`.
        options: Keyword-only arguments from the configuration.
        where: Config path for messages, such as "train.loss".
        given: Keyword-only arguments that the caller supplies itself, so not the user's to set.
    Returns: A partial; calling it needs only the positional and the `given` arguments.

    Raises:
        ConfigError: An option is unknown, missing or out of its bounds; the message has its path
            and value.
    """
    component = lookup(kind, name, where=where)
    # What a controller moves is not the user's to set either.
    model = options_model(component, given=(*given, *getattr(component, "controlled", ())))
    for option in options:
        if option not in model.model_fields:
            instead = _instead(kind, option, list(model.model_fields))
            raise ConfigError(f"{where}.{option}: unknown option of {kind} {name!r}; {instead}")
    hints = get_type_hints(_signed(component), include_extras=True)
    bound = {
        option: _parsed(kind, value, hints.get(option, Any), f"{where}.{option}")
        for option, value in options.items()
    }
    values = _checked(component, model, _ends(bound, 0), where)
    # Where a schedule ends is held to the same bounds as where it starts.
    _checked(component, model, _ends(bound, 1), where)
    return partial(
        component, **{field: _kept(bound.get(field), value) for field, value in values.items()}
    )


def _signed(component: Callable[..., Any]) -> Callable[..., Any]:
    """What carries the signature: a class is called by its constructor."""
    return component.__init__ if inspect.isclass(component) else component


def _checked(
    component: Callable[..., Any], model: type[BaseModel], options: Mapping[str, Any], where: str
) -> dict[str, Any]:
    """All options, defaults filled in, within their bounds and compatible with each other."""
    try:
        checked = model.model_validate(dict(options))
    except ValidationError as error:
        raise ConfigError(describe(error.errors(), where)) from error
    values = {field: getattr(checked, field) for field in model.model_fields}
    try:
        if (check := getattr(component, "check_options", None)) is not None:
            check(**{name: values[name] for name in inspect.signature(check).parameters})
    except ValueError as error:
        raise ConfigError(f"{where}: {error}") from error
    return values


def _parsed(kind: Kind, value: Any, hint: Any, where: str) -> Any:
    """The option with components in it bound and schedules in it read; only losses and regularizers have those."""
    marks = getattr(hint, "__metadata__", ())
    inner = get_args(hint)[0] if marks else hint
    if nested := next((mark for mark in marks if isinstance(mark, Nested)), None):
        if isinstance(value, Mapping) and isinstance(value.get("name"), str):
            options = {key: option for key, option in value.items() if key != "name"}
            return bind(nested.kind, value["name"], options, where=where)
        raise ConfigError(
            f"{where}: expected a {nested.kind} such as {{name: …}} (got {_CLIPPED.repr(value)})"
        )
    if get_origin(inner) is tuple and isinstance(value, list | tuple):
        return tuple(
            _parsed(kind, item, get_args(inner)[0], f"{where}.{index}")
            for index, item in enumerate(value)
        )
    written = isinstance(value, Mapping) and "schedule" in value
    if kind in ("loss", "regularizer") and (written or isinstance(value, Schedule)):
        if inner is not float:
            raise ConfigError(
                f"{where}: has no schedule; only options that take any number can move"
            )
        for key in value if isinstance(value, Mapping) else ():
            if key not in Schedule.model_fields:
                raise ConfigError(
                    f"{where}.{key}: unknown key; {suggest(key, list(Schedule.model_fields))}"
                )
        try:
            return Schedule.model_validate(value)
        except ValidationError as error:
            raise ConfigError(describe(error.errors(), where)) from error
    return value


def _ends(value: Any, end: Literal[0, 1]) -> Any:
    """The value with its schedules at their first or last number."""
    if isinstance(value, Schedule):
        return value.ends[end]
    if isinstance(value, dict):
        return {name: _ends(item, end) for name, item in value.items()}
    return tuple(_ends(item, end) for item in value) if isinstance(value, tuple) else value


def _kept(given: Any, checked: Any) -> Any:
    """The checked value, or the schedules that were given for it."""
    if isinstance(given, tuple) and any(isinstance(item, Schedule) for item in given):
        return given
    return given if isinstance(given, Schedule) else checked


def _instead(kind: Kind, option: str, known: list[str]) -> str:
    if kind == "selector" and (shared := SHARED_BY_SELECTORS.get(option)):
        return f"all selectors share it: set {shared} instead"
    return suggest(option, known) if known else "it has no options"


def describe(problems: list[Any], where: str) -> str:
    """Pydantic's problems, one line each: path, value, what is allowed."""
    lines = []
    for problem in problems:
        places = places_of(problem)
        path = ".".join([where, *places] if where else places)
        message = problem["msg"].removeprefix("Value error, ")
        if problem["type"] == "model_type":
            message = "expected a section: keys with values, such as {name: ...}"
        # The whole section is no value that anybody would look for.
        value = (
            ""
            if problem["type"] == "missing" or not places
            else f" (got {_CLIPPED.repr(problem['input'])})"
        )
        lines.append(f"{path}: {message}{value}" if path else f"{message}{value}")
    return "\n".join(lines)


def places_of(problem: Any) -> list[str]:
    """Where a problem of pydantic is, without the members of unions, which are no place in the file."""
    return [
        str(part)
        for part in problem["loc"]
        if part not in ("Component", "(number)", "(schedule)")
        and not str(part).startswith(("literal[", "tuple["))
    ]


_CLIPPED = reprlib.Repr()
_CLIPPED.maxstring = _CLIPPED.maxother = _CLIPPED.maxlong = 100
_CLIPPED.maxlevel = 2


def _as_written(hint: Any) -> Any:
    """The annotation with numbers and booleans taken as they are written: true is not 1, "8" is no number."""
    if hint in (bool, int, float):
        return Annotated[hint, Strict()]
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return Annotated[_as_written(arguments[0]), *hint.__metadata__]
    if origin in (Union, UnionType):
        return Union[tuple(map(_as_written, arguments))]  # noqa: UP007 - built at run time
    if origin in (list, dict, tuple):
        return origin[tuple(map(_as_written, arguments))]
    return hint
