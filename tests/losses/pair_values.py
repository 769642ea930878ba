"""Log-probabilities of pairs for the tests of losses and regularizers: random ones, drawn ones,
and conversions.
"""

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from torch import Tensor

from prefine.losses.other_references import OtherReferences
from prefine.losses.protocol import LossFunction, PairLogps, TokenLogps
from reference import Array, Columns, TokenColumns

PAIRS = 32


def columns_of(
    tokens: TokenColumns,
    *,
    chosen_tokens: Array,
    rejected_tokens: Array,
    initial_chosen: Array,
    p_chosen: Array,
    weight: Array,
    score_gap: Array,
    mismatched_logratio: Array,
) -> Columns:
    """The columns whose sums are those of the tokens; the pairs are all of the step."""
    return Columns(
        policy_chosen=tokens.policy_chosen.sum(axis=1),
        policy_rejected=tokens.policy_rejected.sum(axis=1),
        ref_chosen=tokens.ref_chosen.sum(axis=1),
        ref_rejected=tokens.ref_rejected.sum(axis=1),
        initial_chosen=initial_chosen,
        chosen_tokens=chosen_tokens,
        rejected_tokens=rejected_tokens,
        p_chosen=p_chosen,
        weight=weight,
        score_gap=score_gap,
        mismatched_logratio=mismatched_logratio,
        pairs_in_step=len(chosen_tokens),
        chosen_tokens_in_step=int(chosen_tokens.sum()),
        tokens=tokens,
    )


def log_sum_p2(logp: Array, spread: Array | float) -> Array:
    """The log of sum_v p(v)^2 if the other probability is spread over 1 / `spread` tokens."""
    collision: Array = np.log(np.exp(2 * logp) + np.expm1(logp) ** 2 * spread)
    return np.minimum(0.0, collision)


def columns(*, seed: int = 0, pairs: int = PAIRS, longest: int = 60) -> Columns:
    """Pairs whose columns all differ; the step is larger than they are."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, longest, (2, pairs)).astype(float)
    inside = np.arange(int(lengths.max())) < lengths[..., None]

    def split(sums: Array) -> Array:
        shares = rng.gamma(1.0, 1.0, inside.shape) * inside
        parts: Array = sums[..., None] * shares / shares.sum(axis=-1, keepdims=True)
        return parts

    ref = -rng.gamma(2.0, 0.5, (2, pairs)) * lengths
    policy = -np.abs(ref + rng.normal([[-1.0], [-2.0]], 4, (2, pairs)))
    (ref_chosen, ref_rejected), (policy_chosen, policy_rejected) = split(ref), split(policy)
    initial_tokens = np.minimum(0.0, ref_chosen + rng.normal(0, 0.3, ref_chosen.shape) * inside[0])
    tokens = TokenColumns(
        policy_chosen=policy_chosen,
        policy_rejected=policy_rejected,
        ref_chosen=ref_chosen,
        ref_rejected=ref_rejected,
        initial_chosen=initial_tokens,
        chosen_log_sum_p2=log_sum_p2(policy_chosen, rng.uniform(0.02, 1, policy_chosen.shape)),
        rejected_log_sum_p2=log_sum_p2(
            policy_rejected, rng.uniform(0.02, 1, policy_rejected.shape)
        ),
        chosen_marked=(inside[0] & (rng.random(policy_chosen.shape) < 0.4)).astype(float),
        rejected_marked=(inside[1] & (rng.random(policy_rejected.shape) < 0.6)).astype(float),
    )
    whole = columns_of(
        tokens,
        chosen_tokens=lengths[0],
        rejected_tokens=lengths[1],
        initial_chosen=initial_tokens.sum(axis=1),
        p_chosen=rng.uniform(0.51, 1, pairs),
        weight=rng.uniform(0.2, 3, pairs),
        score_gap=rng.normal(1, 2, pairs),
        mismatched_logratio=rng.normal(1, 3, pairs),
    )
    return replace(
        whole, pairs_in_step=pairs + 7, chosen_tokens_in_step=whole.chosen_tokens_in_step + 150
    )


def drawn() -> st.SearchStrategy[Columns]:
    """A step of one to four pairs, from near certainty to far out."""
    logp = st.floats(-60, -1e-6) | st.floats(-3000, -1e-6)
    length, marks, unit, ratio = (
        st.integers(1, 6),
        st.integers(0, 63),
        st.floats(0, 1),
        st.floats(-8, 8),
    )
    pair = st.tuples(
        logp, logp, logp, logp, logp, length, length, marks, marks, unit, unit, ratio, ratio
    )
    return st.lists(pair, min_size=1, max_size=4).map(_from_drawn)


def _from_drawn(pairs: Sequence[tuple[Any, ...]]) -> Columns:
    table = np.array(pairs, dtype=float).T
    sums, initial, lengths, masks = table[:4], table[4], table[5:7], table[7:9].astype(int)
    sure, heavy, gap, mismatched = table[9:]
    places = np.arange(int(lengths.max()))
    inside = places < lengths[..., None]
    even = [
        np.where(inside[side], (sums[row] / lengths[side])[:, None], 0.0)
        for row, side in enumerate((0, 1, 0, 1))
    ]
    marked = inside & ((masks[..., None] >> places) % 2 == 1)
    tokens = TokenColumns(
        policy_chosen=even[0],
        policy_rejected=even[1],
        ref_chosen=even[2],
        ref_rejected=even[3],
        initial_chosen=np.where(inside[0], (initial / lengths[0])[:, None], 0.0),
        chosen_log_sum_p2=log_sum_p2(even[0], 0.25),
        rejected_log_sum_p2=log_sum_p2(even[1], 0.25),
        chosen_marked=marked[0].astype(float),
        rejected_marked=marked[1].astype(float),
    )
    return columns_of(
        tokens,
        chosen_tokens=lengths[0],
        rejected_tokens=lengths[1],
        initial_chosen=initial,
        p_chosen=0.5 + sure / 2,
        weight=0.01 + heavy,
        score_gap=gap,
        mismatched_logratio=mismatched,
    )


def rounded(values: Columns) -> Columns:
    """The columns as float32 holds them."""

    def near(part: Any) -> dict[str, Any]:
        arrays = {
            name: value for name, value in vars(part).items() if isinstance(value, np.ndarray)
        }
        return {name: value.astype(np.float32).astype(np.float64) for name, value in arrays.items()}

    assert values.tokens is not None
    return replace(values, **near(values), tokens=replace(values.tokens, **near(values.tokens)))


def joined(parts: Sequence[Columns]) -> Columns:
    """The pairs of several steps as one step."""
    longest = max(part.tokens.policy_chosen.shape[1] for part in parts if part.tokens is not None)

    def together(of: Sequence[Any]) -> dict[str, Any]:
        arrays = {
            name: [vars(part)[name] for part in of]
            for name, value in vars(of[0]).items()
            if not _is_count(value)
        }
        return {
            name: np.concatenate(
                [
                    np.pad(a, ((0, 0), (0, longest - a.shape[1]))) if a.ndim == 2 else a
                    for a in several
                ]
            )
            for name, several in arrays.items()
        }

    lengths = np.concatenate([part.chosen_tokens for part in parts])
    return Columns(
        **together(parts),
        pairs_in_step=len(lengths),
        chosen_tokens_in_step=int(lengths.sum()),
        tokens=TokenColumns(**together([part.tokens for part in parts])),
    )


def _is_count(value: Any) -> bool:
    return not isinstance(value, np.ndarray)


def pair_logps(values: Columns, *, dtype: torch.dtype = torch.float64) -> PairLogps:
    """The columns as the engine would pass them."""

    def tensors(part: Any) -> dict[str, Any]:
        return {
            name: torch.tensor(value, dtype=dtype) if isinstance(value, np.ndarray) else value
            for name, value in vars(part).items()
        }

    others = (torch.tensor(side[1:].T, dtype=dtype) for side in references_of(values))
    return PairLogps(
        **{**tensors(values), "tokens": TokenLogps(**tensors(values.tokens))},
        other_references=OtherReferences(*others, WEIGHTS, HELD_OUT_WEIGHTS),
    )


WEIGHTS, HELD_OUT_WEIGHTS = (0.5, 0.3, 0.2), (0.1, 0.2, 0.7)
"""Of three references: those that are stated, and those of held-out pairs."""


def references_of(values: Columns) -> tuple[Array, Array]:
    """Both sides under three references, [3, B] each; float32 holds them where it holds the rest.

    The second one is near the first for chosen, the others are far away.
    """
    chosen, rejected, initial = values.ref_chosen, values.ref_rejected, values.initial_chosen
    return np.stack([chosen, initial, 2 * chosen]), np.stack([rejected, rejected / 2, initial])


def logps(*, seed: int = 0, dtype: torch.dtype = torch.float64) -> PairLogps:
    """B random pairs as the engine would pass them."""
    return pair_logps(columns(seed=seed), dtype=dtype)


def tensors_of(values: PairLogps) -> dict[str, Tensor]:
    """Every tensor in it by name; those of the tokens as `tokens.NAME`."""
    found = {name: value for name, value in vars(values).items() if isinstance(value, Tensor)}
    inner = (
        {}
        if values.tokens is None
        else {f"tokens.{name}": value for name, value in vars(values.tokens).items()}
    )
    others = values.other_references
    if others is not None:
        inner |= {"others.chosen": others.chosen, "others.rejected": others.rejected}
    return found | {name: value for name, value in inner.items() if value is not None}


def with_tensors(values: PairLogps, tensors: dict[str, Tensor | None]) -> PairLogps:
    """The same with some tensors, named as `tensors_of` does, in place of its own."""

    def within(prefix: str) -> dict[str, Any]:
        return {
            name.removeprefix(prefix): value
            for name, value in tensors.items()
            if name.startswith(prefix)
        }

    outer: dict[str, Any] = {name: value for name, value in tensors.items() if "." not in name}
    if values.tokens is not None:
        outer["tokens"] = replace(values.tokens, **within("tokens."))
    if values.other_references is not None:
        outer["other_references"] = replace(values.other_references, **within("others."))
    return replace(values, **outer)


def some_pairs(values: PairLogps, index: slice | Tensor) -> PairLogps:
    """Some of the pairs, with the totals of the whole step."""
    return with_tensors(values, {name: value[index] for name, value in tensors_of(values).items()})


def shifted(values: PairLogps, **by: float) -> PairLogps:
    """The same with a constant added to some columns."""
    return replace(values, **{name: getattr(values, name) + amount for name, amount in by.items()})


def swapped(values: PairLogps) -> PairLogps:
    """Chosen and rejected exchanged, and with them what the judge said; the initial value stays."""

    def other(name: str) -> str:
        return (
            name.replace("chosen", "rejected")
            if "chosen" in name
            else name.replace("rejected", "chosen")
        )

    def exchanged(part: Any) -> dict[str, Any]:
        names = {field.name for field in fields(part)}
        return {name: getattr(part, other(name)) for name in names if other(name) in names - {name}}

    assert values.score_gap is not None and values.tokens is not None
    said = {"p_chosen": 1 - values.p_chosen, "score_gap": -values.score_gap}
    return replace(
        values,
        **exchanged(values),
        **said,
        tokens=replace(values.tokens, **exchanged(values.tokens)),
    )


def leaves_of(values: PairLogps) -> dict[str, Tensor]:
    """The policy's tensors, fresh and with a gradient to come."""
    found = tensors_of(values)
    wanted = ("policy_chosen", "policy_rejected", "tokens.policy_chosen", "tokens.policy_rejected")
    return {name: found[name].clone().requires_grad_() for name in wanted if name in found}


def gradients(function: LossFunction, values: PairLogps) -> dict[str, Tensor]:
    """Gradient of the summed values in the policy's log-probabilities, of answers and of tokens."""
    leaves = leaves_of(values)
    total = function(with_tensors(values, dict(leaves))).sum()
    found = torch.autograd.grad(
        total, list(leaves.values()), allow_unused=True, materialize_grads=True
    )
    return dict(zip(leaves, found, strict=True))


def gradient(function: LossFunction, values: PairLogps) -> tuple[Tensor, Tensor]:
    """Gradient of the summed values in the policy's chosen and rejected log-probabilities."""
    found = gradients(function, values)
    return found["policy_chosen"], found["policy_rejected"]
