"""The declared properties of a loss; a composite loss combines those of its parts."""

import inspect
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from functools import cache, partial
from typing import Any, get_args, get_type_hints

from prefine.config.components import Nested
from prefine.losses.protocol import NEED_WORDS, LossFunction, LossKind, Need, Reads
from prefine.losses.token_diff import Differences


def bare(function: LossFunction) -> LossFunction:
    """Return the decorated function inside any partials that fill in hyper-parameters."""
    while isinstance(function, partial):
        function = function.func
    return function


def options_of(function: LossFunction) -> dict[str, Any]:
    """Return the hyper-parameters of the function, except those without a value."""
    parameters = inspect.signature(function).parameters.values()
    return {
        p.name: p.default
        for p in parameters
        if p.kind is p.KEYWORD_ONLY and p.default is not p.empty
    }


def option_of(function: LossFunction, name: str) -> Any:
    """Return the value of a hyper-parameter, or None if the function has none of this name."""
    return options_of(function).get(name)


@cache
def nested_options(function: LossFunction) -> frozenset[str]:
    """Return the options of a bare function that hold a loss or several, by their annotations."""
    hints = get_type_hints(function, include_extras=True)
    return frozenset(name for name, hint in hints.items() if _holds_losses(hint))


def _holds_losses(hint: Any) -> bool:
    metadata = getattr(hint, "__metadata__", ())
    return any(isinstance(part, Nested) for part in metadata) or any(
        map(_holds_losses, get_args(hint))
    )


def losses_within(function: LossFunction) -> dict[str, Any]:
    """Return the options of the function that are set to a loss, or to a tuple of losses."""
    options = options_of(function)
    names = sorted(nested_options(bare(function)) & options.keys())
    return {name: options[name] for name in names if options[name] is not None}


def parts_of(function: LossFunction, path: str = "") -> Iterator[tuple[str, LossFunction]]:
    """Yield the function and all losses inside it, each with its path, such as `losses.1.loss`."""
    yield path, function
    for name, value in losses_within(function).items():
        inner = f"{path}.{name}" if path else name
        if isinstance(value, tuple):
            for index, part in enumerate(value):
                yield from parts_of(part, f"{inner}.{index}")
        else:
            yield from parts_of(value, inner)


def _declared(function: LossFunction, name: str, default: Any) -> list[Any]:
    return [getattr(bare(part), name, default) for _, part in parts_of(function)]


def kind_of(function: LossFunction) -> LossKind:
    """Return "coupled" if any part is, or declares no kind: coupled is right for every loss.

    One that reads answers to other prompts reads the whole step.
    """
    kinds = _declared(function, "kind", "coupled")
    return "coupled" if "coupled" in kinds or "mismatched" in needs_of(function) else "local"


def needs_of(function: LossFunction) -> frozenset[Need]:
    """Return the values that the loss reads beyond the policy's.

    A function without a declaration is taken to read the reference and the initial policy.
    """
    undeclared: frozenset[Need] = frozenset({"reference", "initial"})
    parts = [part for _, part in parts_of(function)]
    named = {
        value
        for part in parts
        for name in getattr(bare(part), "may_need", ())
        if (value := option_of(part, name)) in NEED_WORDS
    }
    set_ = (
        needs
        for part in parts
        for option, needs in getattr(bare(part), "needs_if", {}).items()
        if option_of(part, option)
    )
    return frozenset().union(named, *_declared(function, "needs", undeclared), *set_)


def differences_of(*functions: LossFunction) -> Differences:
    """Return how the tokens are found in which answers differ; all parts that read them say so.

    Raises:
        ValueError: Two parts ask for different ways.
    """
    found: set[Differences] = {
        option_of(part, "differences") or "difflib"
        for function in functions
        for _, part in parts_of(function)
        if "differences" in getattr(bare(part), "needs", ())
    }
    if len(found) > 1:
        raise ValueError(
            "its parts find differences in two ways, difflib and levenshtein; choose one for all"
        )
    return next(iter(found), "difflib")


def reads_of(function: LossFunction, items: Reads = "pairs") -> Reads:
    """Return the relation that the most demanding part reads; that of `items` if any would do."""
    found: Reads = max(_declared(function, "reads", "pairs"), key=get_args(Reads).index)
    return items if found == "any" else found


def relations_in(function: LossFunction) -> tuple[Reads, ...]:
    """Return all that its parts read, the function itself first, each once; perhaps only "any".

    A loss of lists makes the pairs that losses inside it read.
    """
    if getattr(bare(function), "reads", "pairs") == "lists":
        return ("lists",)
    found = tuple(dict.fromkeys(_declared(function, "reads", "pairs")))
    return tuple(reads for reads in found if reads != "any") or found


def reads_scores(function: LossFunction) -> bool:
    """Return True if a loss of lists reads the scores of all answers, not only their order."""
    return any(
        option_of(part, "labels") == "scores" or "score_gap" in needs_of(part)
        for _, part in parts_of(function)
    )


def check_reads_sums(function: LossFunction, *, beside: AbstractSet[Need] = frozenset()) -> None:
    """Check that a loss can read sums of log-probabilities that another loss has made.

    Args:
        function: A loss within another.
        beside: What it must not read either, as the sums do not belong to it.

    Raises:
        ValueError: It or a part reads tokens, or has a controller, which reads the sums before.
    """
    for _, part in parts_of(function):
        read = sorted(needs_of(part) & {"tokens", *beside})
        if read or bool(getattr(bare(part), "controlled", ())):
            what = ", ".join(NEED_WORDS[need] for need in read) or "the step before its loss"
            raise ValueError(
                f"{bare(part).__name__!r} reads {what}, and no sums; choose another loss"
            )


def per_pair(function: LossFunction) -> bool:
    """Return True if value i belongs to pair i, which is assumed without a declaration."""
    return all(_declared(function, "per_pair", True))
