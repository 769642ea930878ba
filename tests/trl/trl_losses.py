"""TRL's own loss code on random numbers: its trainers without their constructors, and models
that are scripted.
"""

import dataclasses
import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer
from trl.experimental.cpo import CPOConfig, CPOTrainer
from trl.experimental.orpo import ORPOConfig, ORPOTrainer

from losses.pair_values import some_pairs
from prefine.losses.protocol import PairLogps, TokenLogps

PAIRS = 6
T = TypeVar("T")


def defaults(config: type) -> dict[str, Any]:
    """What TRL takes for settings that nobody gives."""
    return {field.name: field.default for field in dataclasses.fields(config)}


# What both are given


def _counts(seed: int) -> tuple[list[int], list[int]]:
    """Lengths of chosen and rejected; of the first pair chosen is longer, of the second
    rejected.
    """
    lengths = torch.randint(
        1, 12, (2, PAIRS), generator=torch.Generator().manual_seed(seed)
    ).tolist()
    return [9, 2, *lengths[0][2:]], [4, 7, *lengths[1][2:]]


def random_pairs(
    seed: int, *, dtype: torch.dtype = torch.float64, spread: float = 1.0
) -> PairLogps:
    """Pairs with per-token values; those of the policy are leaves, about `spread` away from
    those of the reference.
    """
    generator = torch.Generator().manual_seed(seed + 100)
    columns: dict[str, Tensor] = {}
    for side, counts in zip(("chosen", "rejected"), _counts(seed), strict=True):
        inside = torch.arange(max(counts)) < torch.tensor(counts).unsqueeze(1)

        def noise(inside: Tensor = inside) -> Tensor:
            return torch.randn(inside.shape, generator=generator, dtype=torch.float64)

        ref = -noise().square() - 0.3
        policy = (ref + spread * noise()).clamp(max=-0.01)
        columns |= {f"ref_{side}": ref * inside, f"policy_{side}": policy * inside}
        columns[f"{side}_log_sum_p2"] = -noise().square() * inside
    return _summed(
        {name: column.to(dtype) for name, column in columns.items()}, *_counts(seed), generator
    )


def _summed(
    columns: dict[str, Tensor], chosen: list[int], rejected: list[int], generator: torch.Generator
) -> PairLogps:
    leaves = {
        name: columns[name].clone().requires_grad_()
        for name in ("policy_chosen", "policy_rejected")
    }
    tokens = TokenLogps(**(columns | leaves))
    dtype = tokens.ref_chosen.dtype
    sums = {
        name: getattr(tokens, name).sum(dim=1) for name in (*leaves, "ref_chosen", "ref_rejected")
    }
    return PairLogps(
        **sums,
        initial_chosen=sums["ref_chosen"],
        chosen_tokens=torch.tensor(chosen, dtype=dtype),
        rejected_tokens=torch.tensor(rejected, dtype=dtype),
        p_chosen=0.5 + torch.rand(PAIRS, generator=generator, dtype=torch.float64).to(dtype) / 2,
        weight=torch.ones(PAIRS, dtype=dtype),
        pairs_in_step=PAIRS,
        chosen_tokens_in_step=sum(chosen),
        tokens=tokens,
    )


def leaves_of(pairs: PairLogps) -> tuple[Tensor, Tensor]:
    """The policy's per-token values, of which both losses are functions."""
    tokens = pairs.require_tokens()
    return tokens.policy_chosen, tokens.policy_rejected


def some(pairs: PairLogps, first: int, last: int) -> PairLogps:
    """Some of the pairs as a step of their own."""
    part = some_pairs(pairs, slice(first, last))
    return replace(
        part, pairs_in_step=last - first, chosen_tokens_in_step=int(part.chosen_tokens.sum())
    )


# What TRL is given around it


class Scripted(nn.Module):
    """A model with a fixed answer for each of the inputs it may be asked about."""

    is_gradient_checkpointing = False

    def __init__(self, *answers: tuple[Tensor, Any]) -> None:
        super().__init__()
        self.answers = answers

    def forward(self, input_ids: Tensor, **_: Any) -> Any:
        return next(answer for asked, answer in self.answers if asked is input_ids)


def _uninitialised(trainer: type[T], config: type, settings: dict[str, Any], **more: Any) -> T:
    """One process on the CPU, no mixture of experts; the constructor would load models and data."""
    known = defaults(config) | settings
    assert known.keys() == defaults(config).keys(), "a setting that TRL does not have"
    self = trainer.__new__(trainer)

    def same(value: Tensor) -> Tensor:
        return value

    accelerator = SimpleNamespace(device=torch.device("cpu"), gather=same, gather_for_metrics=same)
    state: dict[str, Any] = {
        "accelerator": accelerator,
        "args": SimpleNamespace(**(known | {"gradient_checkpointing_kwargs": None})),
        "aux_loss_enabled": False,
        "precompute_ref_logps": False,
        "is_encoder_decoder": False,
        "pad_token_id": 0,
        "padding_value": 0,
        "_metrics": {"train": defaultdict(list), "eval": defaultdict(list)},
        "_total_train_tokens": 0,
        "_tp_size": 1,
    }
    vars(self).update(known | state | more)
    return self


@contextmanager
def _constants_in(dtype: torch.dtype) -> Iterator[None]:
    """TRL's own constants in the precision of the test: it makes a float32 of EXO's epsilon
    otherwise.
    """
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def _prompts(pairs: int) -> list[int]:
    return [1 + index % 4 for index in range(pairs)]


def _laid_out(
    sides: Sequence[Tensor], counts: Sequence[list[int]], prompts: list[int]
) -> tuple[Tensor, Tensor]:
    """Per-token values [2B, L - 1] and the mask of the answers [2B, L]; chosen come first.

    Without a prompt there is nothing from which to predict the first token, so the answer has one
    more of them.
    """
    flat = [
        (side[i], counts[s][i], prompts[i])
        for s, side in enumerate(sides)
        for i in range(len(prompts))
    ]
    width = max(count + max(prompt, 1) for _, count, prompt in flat)
    values, masks = [], []
    for value, count, prompt in flat:
        before = max(prompt, 1) - 1
        values.append(nn.functional.pad(value[:count], (before, width - 1 - before - count)))
        answer = count + (prompt == 0)
        masks.append(torch.tensor([0] * prompt + [1] * answer + [0] * (width - prompt - answer)))
    return torch.stack(values), torch.stack(masks)


def _outputs(logps: Tensor, log_sum_p2: Tensor | None = None) -> SimpleNamespace:
    zero = torch.zeros_like(logps)
    return SimpleNamespace(
        log_probs=logps,
        log_sum_sq_probs=log_sum_p2,
        entropy=zero,
        mean_logits=zero,
        is_top1=zero.bool(),
        aux_loss=None,
    )


def _layout(pairs: PairLogps, prompts: list[int]) -> dict[str, Any]:
    tokens = pairs.require_tokens()
    counts = [side.int().tolist() for side in (pairs.chosen_tokens, pairs.rejected_tokens)]

    def laid(*sides: Tensor | None) -> tuple[Tensor, Tensor]:
        return _laid_out([side for side in sides if side is not None], counts, prompts)

    policy, mask = laid(tokens.policy_chosen, tokens.policy_rejected)
    ids = torch.ones_like(mask)
    stats = laid(tokens.chosen_log_sum_p2, tokens.rejected_log_sum_p2)[0]
    return {
        "inputs": {"input_ids": ids, "completion_mask": mask, "attention_mask": ids},
        "policy": _outputs(policy, stats),
        "reference": _outputs(laid(tokens.ref_chosen, tokens.ref_rejected)[0]),
    }


# TRL's losses


def dpo_loss(
    pairs: PairLogps,
    *losses: str,
    prompts: list[int] | None = None,
    precomputed: bool = False,
    **settings: Any,
) -> Tensor:
    """`DPOTrainer._compute_loss`: TRL's mean over the pairs.

    Args:
        losses: TRL's names of the loss types, mixed with `loss_weights` or 1.
        prompts: Tokens of each prompt.
        precomputed: Whether the sums of the reference come with the batch, or a model is asked for
            them.
        settings: Fields of `DPOConfig`.
    """
    given = _layout(pairs, prompts or _prompts(len(pairs.weight)))
    ids = given["inputs"]["input_ids"]
    if precomputed:
        given["inputs"] |= {
            "ref_chosen_logps": pairs.ref_chosen,
            "ref_rejected_logps": pairs.ref_rejected,
        }
    model, reference = Scripted((ids, given["policy"])), Scripted((ids, given["reference"]))
    weights = settings.get("loss_weights") or [1.0] * len(losses)
    trainer = _uninitialised(
        DPOTrainer,
        DPOConfig,
        settings,
        model=model,
        ref_model=reference,
        precompute_ref_logps=precomputed,
        loss_types=losses,
        loss_weights=weights,
    )
    with _constants_in(pairs.weight.dtype):
        return trainer._compute_loss(model, given["inputs"], False)


def kto_loss(
    pairs: PairLogps, loss: str, mismatched: tuple[Tensor, Tensor], **settings: Any
) -> Tensor:
    """`KTOTrainer._compute_loss` on both answers of each pair: TRL's mean over the answers.

    Args:
        loss: TRL's name of the loss type.
        mismatched: Of an answer to another prompt beside each answer, per token [2B, T], policy and
            reference.
        settings: Fields of `KTOConfig`.
    """
    count = len(pairs.weight)
    given = _layout(pairs, _prompts(count))
    ids, other = (
        given["inputs"]["input_ids"],
        torch.ones(2 * count, mismatched[0].shape[1] + 1, dtype=torch.long),
    )
    model = Scripted((ids, given["policy"]), (other, _outputs(mismatched[0])))
    reference = Scripted((ids, given["reference"]), (other, _outputs(mismatched[1])))
    inputs = given["inputs"] | {
        "KL_input_ids": other,
        "KL_completion_mask": other,
        "KL_attention_mask": other,
        "label": torch.tensor([True] * count + [False] * count),
    }
    trainer = _uninitialised(
        KTOTrainer,
        KTOConfig,
        settings,
        model=model,
        ref_model=reference,
        loss_type=loss,
        calculate_KL=loss != "apo_zero_unpaired",
    )
    return trainer._compute_loss(model, inputs, False)


def random_mismatched(
    pairs: PairLogps, seed: int, shift: float
) -> tuple[PairLogps, tuple[Tensor, Tensor]]:
    """The pairs with log-ratios of answers to other prompts around `shift`, and what TRL makes
    them from.
    """
    generator = torch.Generator().manual_seed(seed + 200)
    count = len(pairs.weight)
    ref = -torch.rand(2 * count, 3, generator=generator, dtype=torch.float64)
    policy = ref + shift / 3 + torch.randn(ref.shape, generator=generator, dtype=torch.float64)
    logratio = (policy - ref).sum(dim=1).view(2, count).mean(dim=0)
    return replace(pairs, mismatched_logratio=logratio), (policy, ref)


# The trainers that start from logits


@dataclass(frozen=True)
class LogitPairs:
    """Pairs as logits [2B, L, V], a leaf of gradients, with the inputs of TRL's batches and
    what we make of them.
    """

    logits: Tensor
    inputs: dict[str, Tensor]
    pairs: PairLogps
    prompt_logp: Tensor
    """Of the chosen rows' prompts, without their first token [B]."""
    prompt_tokens: Tensor


def random_logits(
    seed: int, *, prompt: int = 3, equal: bool = False, dtype: torch.dtype = torch.float64
) -> LogitPairs:
    """Random logits and tokens; `equal` gives all chosen answers one length. No reference: its
    values are 0.
    """
    generator = torch.Generator().manual_seed(seed + 300)
    chosen, rejected = _counts(seed)
    if equal:
        chosen = [5] * PAIRS
    lengths, vocabulary = torch.tensor(chosen + rejected) + prompt, 7
    width = int(lengths.max())
    logits = torch.randn(2 * PAIRS, width, vocabulary, generator=generator, dtype=torch.float64).to(
        dtype
    )
    logits.requires_grad_()
    ids = torch.randint(0, vocabulary, (2 * PAIRS, width), generator=generator)
    place = torch.arange(width)
    inside = place < lengths.unsqueeze(1)
    labels = ids.masked_fill(~inside | (place < prompt), -100)
    inputs = {}
    for side, rows in (("chosen", slice(0, PAIRS)), ("rejected", slice(PAIRS, None))):
        inputs |= {f"{side}_input_ids": ids[rows], f"{side}_attention_mask": inside[rows].long()}
        inputs[f"{side}_labels"] = labels[rows]
    logps = logits[:, :-1].log_softmax(dim=-1).gather(2, ids[:, 1:].unsqueeze(2)).squeeze(2)
    answers, zero = (logps * (labels[:, 1:] != -100)).sum(dim=1), torch.zeros(PAIRS, dtype=dtype)
    pairs = PairLogps(
        policy_chosen=answers[:PAIRS],
        policy_rejected=answers[PAIRS:],
        ref_chosen=zero,
        ref_rejected=zero,
        initial_chosen=zero,
        chosen_tokens=torch.tensor(chosen, dtype=dtype),
        rejected_tokens=torch.tensor(rejected, dtype=dtype),
        p_chosen=zero + 1,
        weight=zero + 1,
        pairs_in_step=PAIRS,
        chosen_tokens_in_step=sum(chosen),
    )
    return LogitPairs(
        logits, inputs, pairs, logps[:PAIRS, : prompt - 1].sum(dim=1), zero + prompt - 1
    )


def _from_logits(trainer: Any, given: LogitPairs) -> Tensor:
    def model(*_: Any, **__: Any) -> SimpleNamespace:
        return SimpleNamespace(logits=given.logits)

    loss, _ = trainer.get_batch_loss_metrics(model, given.inputs)
    return loss


def cpo_loss(given: LogitPairs, **settings: Any) -> Tensor:
    """`CPOTrainer.get_batch_loss_metrics` with fields of `CPOConfig`: TRL's mean, next-token
    term included.
    """
    return _from_logits(_uninitialised(CPOTrainer, CPOConfig, settings), given)


def cpo_preference(chosen: Tensor, rejected: Tensor, **settings: Any) -> Tensor:
    """`CPOTrainer.cpo_loss` of log-probabilities, per token or summed as the loss type has
    them: per pair.
    """
    return _uninitialised(CPOTrainer, CPOConfig, settings).cpo_loss(chosen, rejected)[0]


def orpo_loss(given: LogitPairs, **settings: Any) -> Tensor:
    """`ORPOTrainer.get_batch_loss_metrics` with fields of `ORPOConfig`: TRL's mean, next-token
    term included.
    """
    return _from_logits(_uninitialised(ORPOTrainer, ORPOConfig, settings), given)


def odds_ratio_term(chosen: Tensor, rejected: Tensor, beta: float) -> Tensor:
    """`ORPOTrainer.odds_ratio_loss` of log-probabilities per token: per pair, as it enters the
    loss.
    """
    return -_uninitialised(ORPOTrainer, ORPOConfig, {"beta": beta}).odds_ratio_loss(
        chosen, rejected
    )[0]


# How far apart


def apart(theirs: Tensor, ours: Tensor, leaves: Sequence[Tensor] = ()) -> float:
    """Largest difference of value and gradients, relative to the larger value and to the
    gradient's largest entry.
    """
    found = [_relative(theirs.detach(), ours.detach())]
    if not leaves:
        return found[0]
    slopes = [
        torch.autograd.grad(
            loss, leaves, retain_graph=True, allow_unused=True, materialize_grads=True
        )
        for loss in (theirs, ours)
    ]
    # Padding is 0 and nothing else is; the engine's sums run over it, TRL's values are placed
    # without it.
    real = [leaf.detach() != 0 for leaf in leaves]
    found += [
        _relative(one * kept, other * kept) for one, other, kept in zip(*slopes, real, strict=True)
    ]
    return max(found)


def _relative(one: Tensor, other: Tensor) -> float:
    scale = max(float(one.abs().max()), float(other.abs().max()))
    difference = float((one.double() - other.double()).abs().max())
    if math.isnan(difference):
        return math.inf
    return difference / scale if scale else 0.0
