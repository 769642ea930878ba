"""The plainest reference: each prompt and completion in a row of its own, all logits.

Rows have no padding and share nothing; attention is the library's eager one, so masks, windows and
soft-caps are those of the stock code. Everything is in the model's dtype, or float32 if that is
coarser.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedModel

Tokens = Sequence[int]


class Pair(NamedTuple):
    prompt: tuple[int, ...]
    chosen: tuple[int, ...]
    rejected: tuple[int, ...]


PairLogps = tuple[Tensor, Tensor]
"""Log-probabilities of the tokens of the chosen [Tw] and of the rejected completion [Tl]."""


@contextmanager
def _eager(model: PreTrainedModel) -> Iterator[None]:
    before = model.config._attn_implementation
    model.set_attn_implementation("eager")
    try:
        yield
    finally:
        model.set_attn_implementation(before)


def _row(model: PreTrainedModel, tokens: Tokens) -> Tensor:
    """Log-probabilities [S, V] of whatever may follow each token of a row."""
    ids = torch.tensor([list(tokens)], device=model.device)
    with _eager(model):
        logits = model(input_ids=ids).logits[0]
    return logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(-1)


def _next_tokens(model: PreTrainedModel, prompt: Tokens, completion: Tokens) -> Tensor:
    """Log-probabilities [T, V] of all tokens at each place of the completion."""
    assert len(prompt) > 0 and len(completion) > 0
    return _row(model, [*prompt, *completion])[len(prompt) - 1 : -1]


def token_logps(model: PreTrainedModel, prompt: Tokens, completion: Tokens) -> Tensor:
    """Log-probability of each token of the completion [T], nats."""
    logps = _next_tokens(model, prompt, completion)
    return torch.stack([row[token] for row, token in zip(logps, completion, strict=True)])


def prompt_logps(model: PreTrainedModel, prompt: Tokens) -> Tensor:
    """Log-probability of each token of the prompt but the first [P-1], nats."""
    return _row(model, prompt)[:-1].gather(
        1, torch.tensor(prompt[1:], device=model.device).long()[:, None]
    )[:, 0]


def log_sum_p2(model: PreTrainedModel, prompt: Tokens, completion: Tokens) -> Tensor:
    """Log of the sum over the vocabulary of squared probabilities at each place of the
    completion [T], nats.
    """
    return (2 * _next_tokens(model, prompt, completion)).logsumexp(-1)


def entropy(model: PreTrainedModel, prompt: Tokens, completion: Tokens) -> Tensor:
    """Entropy of the distribution at each place of the completion [T], nats."""
    return _entropy(_next_tokens(model, prompt, completion))


def top_mass(model: PreTrainedModel, prompt: Tokens, completion: Tokens, k: int) -> Tensor:
    """Probability of the k most probable tokens together at each place of the completion [T]."""
    return _top(model, prompt, completion, k).exp().sum(-1)


def top_entropy(model: PreTrainedModel, prompt: Tokens, completion: Tokens, k: int) -> Tensor:
    """Entropy of the k most probable tokens, their probabilities scaled to 1 together, at each
    place [T], nats.
    """
    return _entropy(_top(model, prompt, completion, k).log_softmax(-1))


def top_entropy_part(model: PreTrainedModel, prompt: Tokens, completion: Tokens, k: int) -> Tensor:
    """What the k most probable tokens contribute to the entropy at each place of the completion
    [T], nats.
    """
    return _entropy(_top(model, prompt, completion, k))


def _top(model: PreTrainedModel, prompt: Tokens, completion: Tokens, k: int) -> Tensor:
    return _next_tokens(model, prompt, completion).topk(k, dim=-1).values


def _entropy(logps: Tensor) -> Tensor:
    # 0 log 0 is 0, also where a log-probability is -inf.
    return -(logps.exp() * logps.clamp(min=torch.finfo(logps.dtype).min)).sum(-1)


def pair_logps(model: PreTrainedModel, pairs: Sequence[Pair]) -> list[PairLogps]:
    """Log-probabilities of both sides' tokens, each side from its own row."""
    return [
        (token_logps(model, prompt, chosen), token_logps(model, prompt, rejected))
        for prompt, chosen, rejected in pairs
    ]


def summed_logps(model: PreTrainedModel, pairs: Sequence[Pair]) -> Tensor:
    """Summed log-probabilities [B, 2] of the chosen and rejected completions, without a graph:
    a reference's values.
    """
    with torch.no_grad():
        return torch.stack(
            [
                torch.stack([chosen.sum(), rejected.sum()])
                for chosen, rejected in pair_logps(model, pairs)
            ]
        )


def dpo_objective(
    logps: Sequence[PairLogps], reference: Tensor, beta: float, weights: Sequence[float]
) -> Tensor:
    """The weighted mean over pairs of -log sigmoid(beta * margin), a scalar.

    Args:
        logps: The policy's log-probabilities.
        reference: The reference's summed log-probabilities [B, 2], chosen first.
        beta: Inverse temperature [1/nat].
        weights: Weight per pair [B].
    """
    total = torch.zeros((), dtype=logps[0][0].dtype, device=logps[0][0].device)
    for (chosen, rejected), (ref_chosen, ref_rejected), weight in zip(
        logps, reference, weights, strict=True
    ):
        margin = (chosen.sum() - ref_chosen) - (rejected.sum() - ref_rejected)
        total = total + weight * -torch.nn.functional.logsigmoid(beta * margin)
    return total / sum(weights)


def objective_gradients(
    model: PreTrainedModel, pairs: Sequence[Pair], function: Callable[[list[PairLogps]], Tensor]
) -> dict[str, Tensor]:
    """The gradient of a scalar function of the pairs' log-probabilities, by parameter name.

    No `.grad` is read or written; a parameter that the objective does not reach has zeros.
    """
    trained = {
        name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad
    }
    with torch.enable_grad():
        objective = function(pair_logps(model, pairs))
    gradients = torch.autograd.grad(
        objective, list(trained.values()), allow_unused=True, materialize_grads=True
    )
    return dict(zip(trained, gradients, strict=True))


def dpo_gradients(
    model: PreTrainedModel,
    pairs: Sequence[Pair],
    reference: Tensor,
    beta: float,
    weights: Sequence[float],
) -> dict[str, Tensor]:
    """The gradient of `dpo_objective`, by the name of each trained parameter."""
    return objective_gradients(
        model, pairs, lambda logps: dpo_objective(logps, reference, beta, weights)
    )


def relative_errors(
    measured: Mapping[str, Tensor | None],
    textbook: Mapping[str, Tensor | None],
    *,
    floor: float = 1e-2,
) -> dict[str, float]:
    """Norm of the difference over the norm of the textbook's gradient, by name.

    A gradient that is 0 but for rounding, as of queries that see one key only, has no relative
    error: a norm under `floor` times the norm of the textbook's whole gradient counts as that much.
    Absent gradients count as zeros. The error is 0 where both are zero, infinite where only the
    textbook's whole gradient is; NaN stays NaN.
    """
    zero = torch.zeros((), dtype=torch.float64)
    by_name = {
        name: zero if by is None else by.detach().double().cpu() for name, by in textbook.items()
    }
    least = floor * math.hypot(*(float(by.norm()) for by in by_name.values()))
    errors = {}
    for name in [*textbook, *(name for name in measured if name not in textbook)]:
        of, by = measured.get(name), by_name.get(name, zero)
        difference = float(((zero if of is None else of.detach().double().cpu()) - by).norm())
        scale = max(float(by.norm()), least)
        errors[name] = difference / scale if scale else difference and difference * math.inf
    return errors


def make_targets_improbable(
    model: PreTrainedModel, pairs: Sequence[Pair], below: float = -110.0
) -> None:
    """Scale the head in place until half of the scored tokens have a logp under `below`.

    exp(-104) is already 0 in float32. Raises ValueError where that cannot be, as with a soft-cap on
    the logits. Tied embeddings are scaled too.
    """
    for _ in range(24):
        with torch.no_grad():
            logps = torch.cat([side for pair in pair_logps(model, pairs) for side in pair])
            if float((logps < below).double().mean()) >= 0.5:
                return
            model.get_output_embeddings().weight.mul_(2)
    raise ValueError(f"the targets' median log-probability stays at {float(logps.median())}")


class Case(NamedTuple):
    name: str
    pairs: tuple[Pair, ...]


def _text(seed: int, length: int, vocabulary: int = 96) -> tuple[int, ...]:
    """Random tokens; the same for a seed, and a longer one begins like a shorter one."""
    generator = torch.Generator().manual_seed(seed)
    return tuple(int(torch.randint(vocabulary, (), generator=generator)) for _ in range(length))


def _chain(prompt: tuple[int, ...], completions: Sequence[tuple[int, ...]]) -> tuple[Pair, ...]:
    """Each completion against the next, so that every inner one is rejected once and chosen
    once.
    """
    return tuple(Pair(prompt, first, second) for first, second in pairwise(completions))


_P = _text(1, 20)
_A, _B, _C, _D = (_text(seed, length) for seed, length in ((2, 6), (3, 9), (4, 7), (5, 12)))
_MANY = [_text(100 + index, 1 + index * 7 % 13) for index in range(32)]

HOSTILE: list[Case] = [
    Case("prompt of one token", (Pair((7,), _A, _B),)),
    Case("completions of one token", (Pair(_P, (3,), (4,)),)),
    Case("everything of one token", (Pair((7,), (3,), (4,)), Pair((8,), (4,), (3,)))),
    Case("chosen of one token, rejected long", (Pair(_P, (3,), _text(6, 40)),)),
    Case("chosen long, rejected of one token", (Pair(_P, _text(6, 40), (3,)),)),
    Case("chosen is the start of rejected", (Pair(_P, _D[:5], _D),)),
    Case("rejected is the start of chosen", (Pair(_P, _D, _D[:5]),)),
    Case("rejected lacks the last token only", (Pair(_P, _D, _D[:-1]),)),
    Case("sides differ in the last token only", (Pair(_P, (*_D, 5), (*_D, 6)),)),
    Case("sides differ in the first token only", (Pair(_P, (5, *_D), (6, *_D)),)),
    Case(
        "each completion the start of the next", _chain(_P, [_D[:length] for length in range(1, 9)])
    ),
    Case(
        "same prompt in several pairs",
        (Pair(_P, _A, _B), Pair(_P, _C, _D), Pair(_P, _text(6, 3), _text(7, 30))),
    ),
    Case(
        "chosen in one pair, rejected in another",
        (Pair(_P, _A, _B), Pair(_P, _B, _C), Pair(_P, _C, _A)),
    ),
    Case(
        "one completion chosen in all pairs", (Pair(_P, _A, _B), Pair(_P, _A, _C), Pair(_P, _A, _D))
    ),
    Case(
        "one completion rejected in all pairs",
        (Pair(_P, _B, _A), Pair(_P, _C, _A), Pair(_P, _D, _A)),
    ),
    Case("the same pair twice", (Pair(_P, _A, _B), Pair(_P, _A, _B))),
    Case("a pair and its reverse", (Pair(_P, _A, _B), Pair(_P, _B, _A), Pair(_P, _B, _A))),
    Case(
        "same prompt, completions in another order",
        (
            Pair(_P, _A, _B),
            Pair(_text(8, 11), _B, _A),
            Pair(_P, _D, _C),
            Pair(_P, _B, _D),
            Pair(_P, _C, _A),
        ),
    ),
    Case(
        "same prompt, far apart",
        (Pair(_P, _A, _B), *_chain((9, 9), [_A, _B, _C]), Pair(_P, _C, _D)),
    ),
    Case(
        "same completions under several prompts",
        tuple(Pair(_text(20 + i, 5 + i), _A, _B) for i in range(4)),
    ),
    Case(
        "a prompt is the start of another",
        (Pair(_P[:7], _A, _B), Pair(_P, _A, _C), Pair(_P[:8], _B, _A)),
    ),
    # The same rows of tokens, split into prompt and completion at two places.
    Case(
        "a prompt ends where a completion ends",
        (Pair(_P, (*_A, *_B), (*_A, *_C)), Pair((*_P, *_A), _B, _C)),
    ),
    Case("completion repeats the prompt", (Pair(_P, _P, _A), Pair(_P, _B, (*_P, *_P)))),
    Case(
        "one token everywhere",
        (Pair((5,) * 12, (5,) * 9, (5,) * 4), Pair((5,) * 3, (5,), (5,) * 20)),
    ),
    Case(
        "prompt far longer than the window",
        (Pair(_text(9, 100), _A, _B), Pair(_text(9, 100), _C, (3,))),
    ),
    Case("completions longer than the window", (Pair(_P[:3], _text(10, 50), _text(11, 61)),)),
    Case(
        "window ends inside the prompt",
        (Pair(_P[:9], _text(10, 8), _text(11, 9)), Pair(_P[:4], _A, _D)),
    ),
    Case("siblings of equal length", _chain(_P, [_text(30 + index, 10) for index in range(8)])),
    Case(
        "siblings of equal length, several prompts",
        tuple(Pair(_text(i, 16), _text(50 + i, 9), _text(60 + i, 9)) for i in range(40, 46)),
    ),
    Case(
        "32 completions, disjoint pairs",
        tuple(Pair(_P, _MANY[i], _MANY[i + 1]) for i in range(0, 32, 2)),
    ),
    Case(
        "32 completions, one against all",
        tuple(Pair(_P, _MANY[9], other) for other in _MANY if other != _MANY[9]),
    ),
    Case("32 completions, a chain", _chain(_P, _MANY)),
    Case("32 completions of one token", _chain(_P, [(token,) for token in range(32)])),
    Case(
        "a very long pair among tiny ones",
        (
            Pair((1,), (2,), (3,)),
            Pair(_text(12, 60), _text(13, 196), _text(14, 150)),
            Pair((4, 5), (6,), (7, 8)),
        ),
    ),
    Case(
        "all positions used",
        (Pair(_text(15, 1), _text(16, 255), _text(17, 255)), Pair(_text(18, 255), (3,), (4,))),
    ),
]
"""Groups of pairs that attack rows of shared prompts; all tokens are below 96 and no row is
longer than 256.
"""

COINCIDING = Case("chosen equals rejected", (Pair(_P, _A, _A), Pair(_P, _A, _B)))
"""A pair that says nothing: it moves no weight, and alone its gradient is 0."""
