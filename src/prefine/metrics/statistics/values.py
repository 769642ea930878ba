"""Checks of what the metrics are given."""

from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Values = npt.ArrayLike | Sequence[float | None]
Groups = Sequence[str] | npt.NDArray[np.generic]


def refuse(
    wrong: npt.NDArray[np.bool_], array: npt.NDArray[np.generic], rule: str, *, name: str
) -> None:
    """Raise ValueError if any value is wrong, with the first of them and its place.

    Args:
        wrong: Which values are [...].
        array: The values [...].
        rule: The rule that they break, such as "must be in [0, 1]".
        name: Name of the array.
    """
    places = np.argwhere(wrong)
    if len(places):
        place = places[0].tolist()
        raise ValueError(
            f"{name} {rule}, got {array[tuple(places[0])]} at index "
            f"{place[0] if len(place) == 1 else place} ({len(places)} of {array.size} like this)"
        )


def finite_values(values: Values, *, name: str, ndim: int = 1) -> Array:
    """The values as a new float array [n].

    Raises:
        ValueError: There are none, they have another number of dimensions, or one is not a finite
            number.
    """
    array = np.array(values, dtype=np.float64)
    if array.ndim != ndim or array.size == 0:
        dimensions = {1: "one-dimensional", 2: "two-dimensional"}[ndim]
        raise ValueError(f"{name} must be a non-empty {dimensions} array, got shape {array.shape}")
    refuse(~np.isfinite(array), array, "must be finite numbers", name=name)
    return array


def probabilities(values: Values, *, name: str) -> Array:
    """The values as a new float array [n] of numbers in [0, 1].

    Raises:
        ValueError: As for `finite_values`, or a value is outside [0, 1].
    """
    return verdicts(finite_values(values, name=name), name=name)


def verdicts(p_first: Values, *, name: str) -> Array:
    """P(first is better) as a new float array [n], NaN where there is no verdict.

    Raises:
        ValueError: Not one-dimensional, or a value is outside [0, 1].
    """
    array = np.array(p_first, dtype=np.float64)
    if array.ndim != 1:
        raise ValueError(f"{name} must be one-dimensional, got shape {array.shape}")
    refuse((array < 0) | (array > 1), array, "must be in [0, 1]", name=name)
    return array


def same_size(**columns: npt.ArrayLike | Sequence[object] | None) -> None:
    """Raise ValueError if two of these columns have different numbers of rows; None is skipped."""
    sizes = {name: len(rows) for name, rows in columns.items() if rows is not None}  # type: ignore[arg-type]
    if len(set(sizes.values())) > 1:
        listed = ", ".join(f"{size} {name}" for name, size in sizes.items())
        raise ValueError(f"numbers of rows differ: {listed}; give one of each for each row")


def refuse_repeats(keys: Iterable[Hashable], *, name: str) -> None:
    """Raise ValueError if a key is there twice."""
    first: dict[Hashable, int] = {}
    for place, key in enumerate(keys):
        if first.setdefault(key, place) != place:
            raise ValueError(f"{name}: {key!r} is there twice, at {first[key]} and {place}")


def same_prompts(prompts_of: Mapping[str, Collection[Hashable]]) -> None:
    """Raise ValueError if a model has a prompt twice, or lacks one that another model has."""
    reference = next(iter(prompts_of))
    for name, prompts in prompts_of.items():
        refuse_repeats(prompts, name=f"prompts of {name!r}")
        if odd := set(prompts) ^ set(prompts_of[reference]):
            raise ValueError(
                f"{reference!r} and {name!r} have different prompts: {len(odd)}, such as "
                f"{min(map(str, odd))!r}, are of one of them only; compare models on the same "
                "prompts"
            )


def same_length(given: Mapping[str, npt.ArrayLike]) -> list[Array]:
    """Each array as finite floats [B], all of one length.

    Raises:
        ValueError: One is empty, not one-dimensional or not finite, or two differ in length.
    """
    arrays = {name: finite_values(values, name=name) for name, values in given.items()}
    same_size(**arrays)
    return list(arrays.values())


def regression_rows(
    features: npt.ArrayLike, outcomes: npt.ArrayLike, weights: npt.ArrayLike | None
) -> tuple[Array, Array, Array]:
    """Features [N, K], outcomes [N] in [0, 1] and weights [..., N], not negative; None is 1.

    Raises:
        ValueError: Shapes that do not fit, a value that is not finite, an outcome outside [0, 1],
            or a negative weight.
    """
    x, y = np.asarray(features, dtype=np.float64), np.asarray(outcomes, dtype=np.float64)
    w = np.ones(len(y)) if weights is None else np.asarray(weights, dtype=np.float64)
    if x.ndim != 2 or y.shape != x.shape[:1] or w.shape[-1:] != y.shape or not x.size:
        raise ValueError(
            f"need features [N, K], outcomes [N] and weights [..., N], got {x.shape}, {y.shape} "
            f"and {w.shape}"
        )
    for name, array in (("features", x), ("outcomes", y), ("weights", w)):
        refuse(~np.isfinite(array), array, "must be finite numbers", name=name)
    refuse(w < 0, w, "must not be negative", name="weights")
    return x, verdicts(y, name="outcomes"), w
