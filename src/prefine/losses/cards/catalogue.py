"""The catalogue of losses and regularizers: one card each, read from their code."""

import inspect
import math
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal
from types import MappingProxyType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from annotated_types import Ge, Gt, Le, Lt, MinLen
from pydantic.fields import FieldInfo

from prefine.config.checking import suggest
from prefine.config.components import TABLES, Nested, lookup
from prefine.errors import ConfigError
from prefine.losses.cards.docstrings import links, parse
from prefine.losses.cards.logp_gradients import LogpGradients, logp_gradients
from prefine.losses.facts import bare, kind_of, needs_of, per_pair, relations_in
from prefine.losses.protocol import Family, LossFunction, LossKind, Need, Reads

Role = Literal["loss", "regularizer"]
ROLES: tuple[Role, ...] = ("loss", "regularizer")

FAMILIES: Mapping[Family, tuple[str, str]] = MappingProxyType(
    {
        "logistic": ("Logistic", "The log-sigmoid of the margin, and its variants."),
        "reference-free": (
            "Without a reference",
            "The policy's own log-probabilities are compared.",
        ),
        "regression": ("Regression", "The margin, or each log-ratio, is drawn to a finite value."),
        "hinge": ("Hinges", "Nothing is pushed apart any more once the difference is enough."),
        "anchored": (
            "Anchored",
            "Each answer has a push of its own, beside the margin or instead of it.",
        ),
        "guarded": (
            "Guarded",
            "DPO that keeps chosen from falling: it is pushed more than rejected.",
        ),
        "divergence": (
            "Other divergences",
            "DPO with another distance from the reference than KL.",
        ),
        "batch": ("Over the step", "All pairs of a step are looked at together."),
        "composite": ("Losses of losses", "They take other losses as options."),
        "lists": ("Lists", "Several answers in an order, all of them at once."),
        "labels": ("Labelled answers", "Single answers that are known to be good or bad."),
        "regularizer": ("Regularizers", "Added to any loss, times `regularizer_weight`."),
        "other": ("Others", "Not declared."),
    }
)


@dataclass(frozen=True)
class Option:
    """A hyper-parameter.

    `origin` says where the default comes from; `moved` that a controller sets it in training.
    """

    name: str
    meaning: str
    allowed: str
    required: bool
    default: Any
    origin: str
    moved: bool


@dataclass(frozen=True)
class Card:
    """All about a loss or regularizer.

    `pushes` are its gradients; `unknown` says why there are none.
    """

    name: str
    roles: tuple[Role, ...]
    title: str
    formula: str
    where: str
    details: str
    family: Family
    kind: LossKind
    needs: tuple[Need, ...]
    reads: Reads
    per_pair: bool
    options: tuple[Option, ...]
    returns: str
    source: str
    links: tuple[str, ...]
    pushes: LogpGradients | None
    unknown: str

    @property
    def open(self) -> bool:
        """True if kind, needs and pushes depend on losses that have no default."""
        return any(option.required and "a loss" in option.allowed for option in self.options)


def cards() -> list[Card]:
    """Return one card for each loss and regularizer, by family in the order of the tables."""
    found = [card(name) for name in {name: None for role in ROLES for name in TABLES[role]}]
    order = list(FAMILIES)
    return sorted(found, key=lambda one: order.index(one.family))


def card(name: str) -> Card:
    """Return the card of a name in the tables, or of a `module:function` like those.

    Raises:
        ConfigError: There is none of this name, or it is no function that can be read.
    """
    roles = tuple(role for role in ROLES if name in TABLES[role])
    function = function_of(name)
    try:
        options = _options(function)
    except (TypeError, ValueError, NameError) as error:
        raise ConfigError(f"{name}: its arguments cannot be read: {error}") from error
    written = parse(function.__doc__)
    pushes, unknown = _pushes(function, options, ours=bool(roles))
    needs = needs_of(function)
    return Card(
        name=name,
        roles=roles,
        title=_title(function) if roles else "",
        formula=written.formula,
        where=written.where,
        details=written.details,
        family=getattr(bare(function), "family", "other"),
        kind=kind_of(function),
        needs=tuple(need for need in get_args(Need) if need in needs),
        reads=relations_in(function)[0],
        per_pair=per_pair(function),
        options=options,
        returns=written.returns,
        source=written.source,
        links=links(written.source),
        pushes=pushes,
        unknown=unknown,
    )


def function_of(name: str) -> LossFunction:
    """Return the loss or regularizer of this name.

    Raises:
        ConfigError: There is none.
    """
    known = {name: None for role in ROLES for name in TABLES[role]}
    if name not in known and ":" not in name:
        raise ConfigError(
            f"unknown loss or regularizer {name!r}; {suggest(name.lower(), known)}, or "
            "module:function"
        )
    role: Role = next((role for role in ROLES if name in TABLES[role]), "loss")
    function = lookup(role, name, where="losses")
    if not callable(function) or inspect.isclass(function):
        raise ConfigError(
            f"{name}: a loss is a function of PairLogps, this is {type(function).__name__}"
        )
    found: LossFunction = function
    return found


def amount(value: float) -> str:
    """Format a size with three digits, the same on every machine."""
    if value == 0 or math.isinf(value):
        return "∞" if value else "0"
    # The last bits of the machine's arithmetic must not decide a tie.
    exact = Decimal(f"{value:.12g}")
    text = exact.quantize(
        Decimal(1).scaleb(exact.adjusted() - 2), rounding=ROUND_HALF_UP
    ).normalize()
    return (f"{text:.2e}" if abs(exact) < Decimal("1e-4") else f"{text:,f}").replace("-", "−")


def arrow(push: float) -> str:
    """Format direction and size of a push: up is likelier."""
    return f"{'↑' if push > 0 else '↓'}\u00a0{amount(abs(push))}" if push else "0"


def as_yaml(value: Any) -> str:
    """Write a default as a configuration would state it."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {as_yaml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(as_yaml, value)) + "]"
    if isinstance(value, bool) or value is None:
        return "null" if value is None else str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


def _title(function: LossFunction) -> str:
    """Return the first line of the docstring of the function's file."""
    module = inspect.getmodule(bare(function))
    return (getattr(module, "__doc__", None) or "").strip().split("\n")[0].removesuffix(".")


def _pushes(
    function: LossFunction, options: tuple[Option, ...], *, ours: bool
) -> tuple[LogpGradients | None, str]:
    if required := [option.name for option in options if option.required]:
        parts = "its parts" if ours else f"{' and '.join(required)}, without default"
        return None, f"depends on {parts}"
    try:
        return logp_gradients(function), ""
    except Exception as error:
        if ours:
            raise
        # A user's function may raise anything.
        return None, f"it cannot be computed: {type(error).__name__}: {error}"


def _options(function: LossFunction) -> tuple[Option, ...]:
    hints = get_type_hints(bare(function), include_extras=True)
    written = parse(function.__doc__)
    moved = getattr(bare(function), "controlled", ())
    return tuple(
        Option(
            name=name,
            meaning=written.arguments.get(name, ""),
            allowed=allowed(hints.get(name, Any)),
            required=parameter.default is parameter.empty,
            default=None if parameter.default is parameter.empty else _plain(parameter.default),
            origin=written.origins.get(name, ""),
            moved=name in moved,
        )
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.kind is parameter.KEYWORD_ONLY
    )


def _plain(value: Any) -> Any:
    """Return a default as a configuration would state it."""
    return {"name": getattr(bare(value), "__name__", "?")} if callable(value) else value


def allowed(hint: Any) -> str:
    """Say which values an annotation allows: "> 0", "this or that"; empty for any number."""
    marks = getattr(hint, "__metadata__", ())
    inner = get_args(hint)[0] if marks else hint
    if any(isinstance(mark, Nested) for mark in marks):
        return "a loss"
    bounds = [
        bound
        for mark in marks
        for bound in (mark.metadata if isinstance(mark, FieldInfo) else [mark])
    ]
    words = [word for bound in bounds if (word := _bound(bound))]
    if get_origin(inner) is Literal:
        *most, last = map(str, get_args(inner))
        return f"{', '.join(most)} or {last}" if most else last
    if get_origin(inner) in (Union, UnionType):
        return " or ".join(map(allowed, get_args(inner)))
    if get_origin(inner) is tuple:
        return ", ".join([*words, f"each {allowed(get_args(inner)[0]) or 'any number'}"])
    if inner is int:
        return ", ".join(["whole number", *words])
    return ", ".join(words) if words or inner is float else getattr(inner, "__name__", str(inner))


def _bound(bound: Any) -> str:
    for kind, sign in ((Gt, ">"), (Ge, "≥"), (Lt, "<"), (Le, "≤")):
        if isinstance(bound, kind):
            return f"{sign} {getattr(bound, kind.__name__.lower())}"
    return f"at least {bound.min_length}" if isinstance(bound, MinLen) else ""
