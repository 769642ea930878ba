"""The components that a configuration can name, each imported on first use.

The keyword-only arguments of a component are its options: their annotations (with pydantic `Field`
bounds) are checked, their defaults are the vetted setting. To add one, write its file and add a
line to its table, or name your own as `module:attribute`.
"""

import importlib
import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, get_args, get_origin, get_type_hints

from pydantic import BaseModel, ConfigDict, create_model

from prefine.config.checking import checked, shown, strict, suggest
from prefine.config.foreign_keys import HERE
from prefine.config.given import given_callable, given_name, is_given, is_importable
from prefine.errors import ConfigError
from prefine.schedules import Schedule

Kind = Literal[
    "loss",
    "regularizer",
    "automatic",
    "strategy",
    "judge",
    "selector",
    "backend",
    "bridger",
    "source",
    "step_source",
    "gold",
    "metric",
    "reward_loss",
    "executor",
]


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
        "rainbow_po": "prefine.losses.pairs.rainbow_po:rainbow_po",
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
        "flex_dpo": "prefine.losses.pairs.flex_dpo:flex_dpo",
        "slope_calibration": "prefine.losses.pairs.slope_calibration:slope_calibration",
        "aipo": "prefine.losses.pairs.aipo:aipo",
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
        "mrpo": "prefine.losses.pairs.mrpo:mrpo",
        "jpo": "prefine.losses.pairs.jpo:jpo",
        "list_mle": "prefine.losses.lists.list_mle:list_mle",
        "neural_ndcg": "prefine.losses.lists.neural_ndcg:neural_ndcg",
        "approx_ndcg": "prefine.losses.lists.approx_ndcg:approx_ndcg",
        "lambda_rank": "prefine.losses.lists.lambda_rank:lambda_rank",
        "list_net": "prefine.losses.lists.list_net:list_net",
        "all_pairs": "prefine.losses.lists.all_pairs:all_pairs",
        "best_vs_rest": "prefine.losses.lists.best_vs_rest:best_vs_rest",
        "sppo_list": "prefine.losses.lists.sppo_list:sppo_list",
        "nca_list": "prefine.losses.lists.nca_list:nca_list",
        "dro": "prefine.losses.lists.dro:dro",
        "kto": "prefine.losses.points.kto:kto",
        "bco_unpaired": "prefine.losses.points.bco_unpaired:bco_unpaired",
        "nll": "prefine.losses.regularizers.nll:nll",
    },
    # Of reward models (train.reward).
    "reward_loss": {
        "bradley_terry": "prefine.losses.rewards.bradley_terry:bradley_terry",
        "plackett_luce": "prefine.losses.rewards.plackett_luce:plackett_luce",
    },
    "regularizer": {
        "nll": "prefine.losses.regularizers.nll:nll",
        "budget": "prefine.losses.regularizers.budget:budget",
        "step_budget": "prefine.losses.regularizers.step_budget:step_budget",
        "softplus_budget": "prefine.losses.regularizers.softplus_budget:softplus_budget",
        "token_budget": "prefine.losses.regularizers.token_budget:token_budget",
        "log_barrier": "prefine.losses.regularizers.log_barrier:log_barrier",
    },
    # Regularizers whose weight is set during training (regularizer_weight: auto).
    "automatic": {"budget": "prefine.training.budget.settings:AutomaticBudget"},
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
        "against_baseline": "prefine.ranking.strategies.against_baseline:against_baseline",
        "score_then_duel": "prefine.ranking.strategies.score_then_duel:score_then_duel",
    },
    "judge": {
        "playground": "prefine.judges.playground:PlaygroundJudge",
        "recorded": "prefine.judging.recorded:recorded",
        "pairwise": "prefine.judging.pairwise:PairwiseJudge",
        "reward": "prefine.judging.scores:reward",
    },
    "selector": {
        "best_vs_random": "prefine.pairing.selectors.best_vs:best_vs_random",
        "best_vs_runner_up": "prefine.pairing.selectors.best_vs:best_vs_runner_up",
        "best_vs_last_loser": "prefine.pairing.selectors.best_vs:best_vs_last_loser",
        "best_vs_worst": "prefine.pairing.selectors.best_vs:best_vs_worst",
        "best_vs_mu_minus_2sigma": "prefine.pairing.selectors.best_vs:best_vs_mu_minus_2sigma",
        "reference_vs_sample": "prefine.pairing.selectors.best_vs:reference_vs_sample",
        "all_pairs": "prefine.pairing.selectors.all_pairs:all_pairs",
        "rejection_sampling": "prefine.pairing.selectors.rejection_sampling:rejection_sampling",
        "joint": "prefine.pairing.selectors.joint:joint",
        "lists": "prefine.pairing.selectors.lists:lists",
        "labelled": "prefine.pairing.selectors.labelled:labelled",
    },
    "backend": {
        "hf": "prefine.models.hf.backend:HfModel",
        "openai": "prefine.models.openai.backend:OpenAIModel",
        "served": "prefine.models.served.backend:ServedModel",
        "playground": "prefine.models.playground:playground",
        "scripted": "prefine.models.scripted:ScriptedModel",
        "mixture": "prefine.models.mixture:MixtureModel",
    },
    # Who rewrites rejected answers: a model that is asked, or a class that computes.
    "bridger": {
        "hf": "prefine.models.hf.backend:HfModel",
        "openai": "prefine.models.openai.backend:OpenAIModel",
        "served": "prefine.models.served.backend:ServedModel",
        "playground": "prefine.bridging.playground:PlaygroundBridger",
        "scripted": "prefine.models.scripted:ScriptedModel",
    },
    "source": {
        "file": "prefine.data.sources:file",
        "hub": "prefine.data.hub:hub",
        "playground": "prefine.data.playground:playground",
    },
    "step_source": {
        "shuffled": "prefine.training.step_sources.shuffled:Shuffled",
        "self_play": "prefine.training.step_sources.self_play:SelfPlay",
    },
    "gold": {
        "playground": "prefine.playground.world:gold_parts",
    },
    "executor": {
        "local": "prefine.executors.local:Local",
        "ray": "prefine.executors.ray_cluster:RayExecutor",
    },
    "metric": {
        "displacement": "prefine.metrics.runs.likelihoods:displacement",
        "ranking_accuracy": "prefine.metrics.runs.likelihoods:ranking_accuracy",
        "ranking_flips": "prefine.metrics.runs.likelihoods:ranking_flips",
        "idealised_ranking_accuracy": (
            "prefine.metrics.runs.likelihoods:idealised_ranking_accuracy"
        ),
        "list_ranking_accuracy": "prefine.metrics.runs.likelihoods:list_ranking_accuracy",
        "likelihood_alarms": "prefine.metrics.runs.likelihoods:likelihood_alarms",
        "judge_agreement": "prefine.metrics.runs.judging:judge_agreement",
        "judge_calibration": "prefine.metrics.runs.judging:judge_calibration",
        "verdict_rates": "prefine.metrics.runs.judging:verdict_rates",
        "length_preference": "prefine.metrics.runs.judging:length_preference",
        "cyclic_triads": "prefine.metrics.runs.judging:cyclic_triads",
        "diversity": "prefine.metrics.runs.texts:diversity",
        "answer_diversity": "prefine.metrics.runs.texts:answer_diversity",
        "exact_overlap": "prefine.metrics.runs.texts:exact_overlap",
        "near_overlap": "prefine.metrics.runs.texts:near_overlap",
        "output_screens": "prefine.metrics.runs.texts:output_screens",
    },
}

UNRANKED = frozenset({"reference_vs_sample"})
"""Selectors that read no ranking: stage `rank` is skipped, and a section `rank` not needed."""

SHARED_BY_SELECTORS = {
    "max_pairs": "pair.pairs_per_prompt",
    "min_gap": "pair.min_gap",
    "min_p_chosen": "pair.min_p_chosen",
    "max_length_ratio": "pair.max_length_ratio",
    "length_penalty": "pair.length_penalty",
    "drop_truncated": "pair.drop_truncated",
    "pairs_per_prompt": "pair.pairs_per_prompt",
    "held_out_prompts": "pair.held_out_prompts",
    "labels": "pair.labels",
    "fraction": "pair.fraction",
    "only_sources": "pair.only_sources",
    "replay": "pair.replay",
    "seed": "pair.seed",
}
"""Options that people look for on a selector, and where they are instead."""

VLLM = (
    "vLLM is used through its server: write {name: served, engine: vllm, path: MODEL}, which "
    "starts it, or run `vllm serve MODEL` and write "
    "{name: openai, base_url: 'http://localhost:8000/v1', model: MODEL}"
)


_IMPORTABLE = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")
INSIDE: dict[Kind, tuple[str, Kind]] = {
    "judge": ("model", "backend"),
    "loss": ("losses", "loss"),
    "regularizer": ("losses", "loss"),
    "backend": ("models", "backend"),
}
"""Of some kinds, the option that is itself a component, or a list of them, and its kind."""


def in_full(kind: Kind, value: Any) -> Any:
    """Return a component as a mapping of its name and options, however it was written.

    A bare name is a component with its defaults; a bare path is a model folder, a hub id or a file;
    a bare URL is a server. In Python a callable stands for itself, a `functools.partial` for a
    callable with options. Anything else comes back as it is, for the check to refuse.
    """
    if isinstance(value, partial) and not value.args:
        value = {"name": value.func, **value.keywords}
    elif callable(value):
        value = {"name": value}
    elif isinstance(value, str) or hasattr(value, "__fspath__"):
        value = _from_bare(kind, str(value))
    if not isinstance(value, Mapping):
        return value
    full = dict(value)
    if callable(full.get("name")):
        full["name"] = name_of(kind, full["name"])
    option, inner = INSIDE.get(kind, ("", kind))
    if isinstance(full.get(option), list | tuple):
        full[option] = [in_full(inner, one) for one in full[option]]
    elif option in full:
        full[option] = in_full(inner, full[option])
    return full


def name_of(kind: Kind, function: Callable[..., Any]) -> str:
    """Return the name by which a configuration finds a callable: ours, or `module:function`.

    One that cannot be imported gets a name that only a process knows to which it was given.
    """
    target = f"{getattr(function, '__module__', '')}:{getattr(function, '__qualname__', '')}"
    ours = next((name for name, known in TABLES[kind].items() if known == target), None)
    if ours is not None or (is_module_attribute(target) and is_importable(function)):
        return ours or target
    return given_name(function)


def is_module_attribute(text: str) -> bool:
    """Return True if a text names a component of the user's, `module:attribute`."""
    return _IMPORTABLE.fullmatch(text) is not None


def _from_bare(kind: Kind, text: str) -> dict[str, Any]:
    hub = text.removeprefix("hub:")
    if kind == "source" and hub != text:
        return {"name": "hub", "path": hub}
    if text in TABLES[kind] or is_module_attribute(text) or not text.strip():
        return {"name": text}
    if kind == "source":
        return {"name": "file", "path": text}
    if kind in ("backend", "bridger") and text != "vllm":
        return (
            {"name": "openai", "base_url": text} if "://" in text else {"name": "hf", "path": text}
        )
    return {"name": text}


def lookup(kind: Kind, name: str, *, where: str) -> Any:
    """Import and return the component called `name`; `where` is its config path for messages.

    Raises:
        ConfigError: The name is in no table and is no importable `module:attribute`.
    """
    if is_given(name):
        return given_callable(name, where=where)
    target = TABLES[kind].get(name, name)
    module_name, colon, attribute = target.partition(":")
    if not colon:
        hint = f"{suggest(name, TABLES[kind])}, or module:attribute"
        if kind in ("backend", "bridger") and name == "vllm":
            hint = VLLM
        raise ConfigError(f"{where}.name: unknown {kind} {name!r}; {hint}")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if name in TABLES[kind]:
            message = f"{kind} {name!r} needs the package {error.name!r}; install prefine[train]"
            raise ConfigError(f"{where}: {message}") from error
        remedy = "put the folder of your module on PYTHONPATH"
        if (error.name or "").startswith("prefine."):
            remedy = "CHANGELOG.md has the new places of modules that moved"
        raise ConfigError(
            f"{where}.name: cannot import {module_name!r} of {name!r}: {error}; {remedy}"
        ) from error
    except (ImportError, SyntaxError, ValueError) as error:
        raise ConfigError(
            f"{where}.name: importing {module_name!r} of {name!r} fails: {error}"
        ) from error
    if not hasattr(module, attribute):
        raise ConfigError(f"{where}.name: module {module_name!r} has no {attribute!r}")
    return getattr(module, attribute)


CONFIG_PATH = "config_path"
"""The keyword by which a component asks for its config path, for messages; no option."""


@dataclass(frozen=True)
class Nested:
    """In an annotation: the option is itself a component, `{name: …}` with its own options."""

    kind: Kind


def options_model(
    component: Callable[..., Any], *, given: Iterable[str] = (), schedules: bool = False
) -> type[BaseModel]:
    """Return the pydantic model of a component's options.

    Args:
        component: A function, or a class whose `__init__` takes the options.
        given: Options that the caller sets.
        schedules: True if numbers may be schedules.
    """
    given = (*given, CONFIG_PATH)
    function, hints = _signature(component)
    fields: dict[str, Any] = {
        name: (
            strict(hints.get(name, Any), schedules),
            ... if parameter.default is parameter.empty else parameter.default,
        )
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.kind is parameter.KEYWORD_ONLY and name not in given
    }
    return create_model(
        f"{getattr(component, '__name__', 'component')}_options",
        __config__=ConfigDict(extra="forbid", arbitrary_types_allowed=True, allow_inf_nan=False),
        **fields,
    )


def settable_options(
    component: Callable[..., Any], *, given: Iterable[str] = (), schedules: bool = False
) -> type[BaseModel]:
    """Return `options_model` without what a controller sets, which the user cannot."""
    given = (*given, *getattr(component, "controlled", ()))
    return options_model(component, given=given, schedules=schedules)


def bind(
    kind: Kind, name: str, options: Mapping[str, Any], *, where: str, given: tuple[str, ...] = ()
) -> Callable[..., Any]:
    """Return the component with its options checked and filled in.

    Args:
        kind: The table of the name.
        name: A name in it, or `module:attribute`.
        options: Keyword-only arguments from the configuration.
        where: Config path for messages, such as "train.loss".
        given: Keyword-only arguments that the caller supplies, so that the user cannot set them.
    Returns: A partial; calling it needs only the positional and the `given` arguments.

    Raises:
        ConfigError: An option is unknown, missing or out of its bounds; the message has its path
            and value.
    """
    component = lookup(kind, name, where=where)
    model = settable_options(component, given=given, schedules=kind in ("loss", "regularizer"))
    _, hints = _signature(component)
    for option in options:
        if option not in model.model_fields:
            hint = "it has no options"
            if model.model_fields:
                hint = suggest(option, model.model_fields)
            if kind in ("loss", "regularizer") and HERE.get(option, "").startswith("train."):
                hint = f"here it is {HERE[option]}"
            if kind == "regularizer" and option in _automatic_options(name):
                hint = "it is for train.regularizer_weight: auto"
            if kind == "selector" and option in SHARED_BY_SELECTORS:
                hint = f"all selectors share it: set {SHARED_BY_SELECTORS[option]} instead"
            raise ConfigError(f"{where}.{option}: unknown option of {kind} {name!r}; {hint}")
    bound = {
        option: _with_nested(value, hints.get(option, Any), f"{where}.{option}")
        for option, value in options.items()
    }
    values = dict(checked(model, bound, where=where))
    if CONFIG_PATH in inspect.signature(_signature(component)[0]).parameters:
        values[CONFIG_PATH] = where
    if (check := getattr(component, "check_options", None)) is not None:
        read = inspect.signature(check).parameters
        try:
            # Options must go together at both ends of their schedules.
            for end in (0, 1):
                check(**{option: _at_end(values[option], end) for option in read})
        except ValueError as error:
            raise ConfigError(f"{where}: {error}") from error
    return partial(component, **values)


def _automatic_options(name: str) -> Iterable[str]:
    """Return the options of a regularizer when its weight is set during training."""
    if name not in TABLES["automatic"]:
        return ()
    return options_model(lookup("automatic", name, where="train.regularizer")).model_fields


def _signature(component: Callable[..., Any]) -> tuple[Callable[..., Any], dict[str, Any]]:
    """Return the function that takes the options, a class's `__init__`, with its annotations."""
    function = component.__init__ if inspect.isclass(component) else component
    return function, get_type_hints(function, include_extras=True)


def _with_nested(value: Any, hint: Any, where: str) -> Any:
    """Return an option with the components inside it bound."""
    metadata = getattr(hint, "__metadata__", ())
    nested = next((mark for mark in metadata if isinstance(mark, Nested)), None)
    if nested is not None:
        value = in_full(nested.kind, value)
        if isinstance(value, Mapping) and isinstance(value.get("name"), str):
            options = {key: option for key, option in value.items() if key != "name"}
            return bind(nested.kind, value["name"], options, where=where)
        raise ConfigError(
            f"{where}: expected a {nested.kind} such as {{name: …}} (got {shown(value)})"
        )
    inner = get_args(hint)[0] if metadata else hint
    if get_origin(inner) is tuple and isinstance(value, list | tuple):
        item_hint = get_args(inner)[0]
        return [_with_nested(v, item_hint, f"{where}.{index}") for index, v in enumerate(value)]
    return value


def _at_end(value: Any, end: int) -> Any:
    """Return an option with each schedule replaced by its first or last number."""
    if isinstance(value, Schedule):
        return value.ends[end]
    return tuple(_at_end(item, end) for item in value) if isinstance(value, tuple) else value
