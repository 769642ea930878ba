"""The engine's gradient of every architecture against the textbook: each answer alone, full
logits, one backward.
"""

import copy
from functools import partial

import architectures
import pytest
import textbook
import torch

from prefine.losses import dpo
from prefine.training.forward.head import LinearHead, ModuleHead
from prefine.training.forward.passes import Forward
from prefine.training.forward.sharing import why_not_shared
from prefine.training.objective.gradient import accumulate_gradients
from prefine.training.objective.item_table import ItemTable
from prefine.training.objective.objective import Objective
from prefine.training.relations.choose import named_relation
from prefine.training.relations.pairs import TokenizedPair

BETA = 0.3
NAMES = [*architectures.ATTENTION_ONLY]


def _examples(pairs: list[textbook.Pair]) -> list[TokenizedPair]:
    return [
        TokenizedPair(str(n), tuple(p), tuple(c), tuple(r), weight=1 + n % 3)
        for n, (p, c, r) in enumerate(pairs)
    ]


def _pairs(seed: int = 3) -> list[textbook.Pair]:
    generator = torch.Generator().manual_seed(seed)

    def ids(count: int) -> tuple[int, ...]:
        return tuple(torch.randint(3, 90, (count,), generator=generator).tolist())

    lengths = [(17, 9, 23), (30, 1, 5), (3, 21, 2), (1, 8, 4), (50, 40, 31)]
    pairs = [textbook.Pair(ids(p), ids(c), ids(r)) for p, c, r in lengths]
    # The first prompt once more, with one of its answers and another one.
    return [*pairs, textbook.Pair(pairs[0].prompt, pairs[0].chosen, ids(12))]


def _errors(
    model: torch.nn.Module,
    pairs: list[textbook.Pair],
    gradients: dict[str, torch.Tensor],
    *,
    tokens: int,
    shared: bool,
) -> dict[str, float]:
    examples = _examples(pairs)
    dtype = next(model.parameters()).dtype
    zero = torch.zeros(2 * len(pairs), dtype=dtype)
    table = ItemTable.of(named_relation("pairs"), examples, {"initial": zero})
    forward = Forward(model, shared=shared, tokens=tokens)
    model.zero_grad(set_to_none=True)
    batches = forward.cut(examples, range(len(examples)))
    accumulate_gradients(
        forward, batches, table, Objective(partial(dpo, beta=BETA)), examples=examples, step=1
    )
    found = {
        name: torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        for name, parameter in model.named_parameters()
    }
    return textbook.relative_errors(found, gradients)


def _textbook(model: torch.nn.Module, pairs: list[textbook.Pair]) -> dict[str, torch.Tensor]:
    dtype = next(model.parameters()).dtype
    weights = torch.tensor([example.weight for example in _examples(pairs)], dtype=dtype)
    return textbook.dpo_gradients(
        model, pairs, torch.zeros(len(pairs), 2, dtype=dtype), BETA, weights
    )


@pytest.mark.parametrize("name", NAMES)
def test_every_architecture_has_the_textbook_gradient(name: str) -> None:
    single = name in architectures.FLOAT32_ONLY
    dtype = torch.float32 if single else torch.float64
    model = architectures.ATTENTION_ONLY[name](dtype=dtype)
    pairs = _pairs()
    expected = _textbook(architectures.ATTENTION_ONLY[name](dtype=dtype), pairs)
    # In float32: a walk of eps over layers, width and tokens; experts are chosen by values that
    # differ in the last bit.
    allowed = 1e-5 if single else 1e-6
    assert why_not_shared(model, _examples(pairs)) is None
    for shared in (True, False):
        for tokens in (1, 100, 10_000):
            errors = _errors(model, pairs, expected, tokens=tokens, shared=shared)
            assert max(errors.values()) <= allowed, max(errors, key=errors.__getitem__)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in architectures.FLOAT32_ONLY])
def test_in_float32_the_gradient_is_as_near_to_the_exact_one_as_the_textbooks(name: str) -> None:
    """The bound is derived from what float32 does to the textbook's own gradient of the same
    weights.
    """
    model, pairs = architectures.ATTENTION_ONLY[name](dtype=torch.float32), _pairs()
    exact = _textbook(copy.deepcopy(model).double(), pairs)
    rounding = textbook.relative_errors(_textbook(copy.deepcopy(model), pairs), exact)
    for shared in (True, False):
        for tokens in (100, 10_000):
            errors = _errors(model, pairs, exact, tokens=tokens, shared=shared)
            assert max(errors.values()) <= 4 * max(rounding.values()) < 1e-3, max(
                errors, key=errors.__getitem__
            )


@pytest.mark.parametrize("name", architectures.MIXING_OTHERWISE)
def test_layers_that_mix_tokens_otherwise_are_noticed_and_have_the_textbook_gradient_unshared(
    name: str,
) -> None:
    dtype = torch.float32 if name in architectures.FLOAT32_ONLY else torch.float64
    build = architectures.MIXING_OTHERWISE[name]
    model, pairs = build(dtype=dtype), _pairs()
    assert why_not_shared(model, _examples(pairs)) is not None
    errors = _errors(model, pairs, _textbook(build(dtype=dtype), pairs), tokens=150, shared=False)
    assert max(errors.values()) <= 1e-5, max(errors, key=errors.__getitem__)


@pytest.mark.parametrize("name", ["bloom", "gpt_oss", "llama4", "llama_dynamic", "phi3_longrope"])
def test_attention_that_depends_on_more_of_the_row_is_noticed(name: str) -> None:
    dtype = torch.float32 if name in architectures.FLOAT32_ONLY else torch.float64
    assert (
        why_not_shared(architectures.ROW_DEPENDENT[name](dtype=dtype), _examples(_pairs()))
        is not None
    )


@pytest.mark.parametrize("case", textbook.HOSTILE, ids=lambda case: case.name)
def test_hostile_pairs_have_the_textbook_gradient_to_twelve_digits(case: textbook.Case) -> None:
    build, pairs = (
        architectures.ATTENTION_ONLY["llama"],
        [textbook.Pair(*pair) for pair in case.pairs],
    )
    with architectures.without_float32_casts(plain := build()):
        expected = _textbook(plain, pairs)
    for tokens in (64, 4096):
        with architectures.without_float32_casts(model := build()):
            errors = _errors(model, pairs, expected, tokens=tokens, shared=True)
        assert max(errors.values()) <= 1e-12, max(errors, key=errors.__getitem__)


@pytest.mark.parametrize("name", ["llama", "llama_tied"])
def test_a_target_whose_probability_underflows_has_its_exact_value(name: str) -> None:
    model, pairs = architectures.ATTENTION_ONLY[name](dtype=torch.float32), _pairs()
    textbook.make_targets_improbable(model, pairs)
    forward = Forward(model)
    assert isinstance(forward.head, LinearHead)
    (rows,) = forward.cut(_examples(pairs[:1]), [0])
    found = forward.values(rows).logps
    expected = torch.cat(
        [textbook.token_logps(model, pairs[0].prompt, ids) for ids in pairs[0][1:]]
    )
    assert float(found.min()) < -110
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-3)


def test_a_group_larger_than_the_workspace_has_the_same_gradient(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    build, pairs = architectures.ATTENTION_ONLY["llama"], _pairs()
    with architectures.without_float32_casts(plain := build()):
        expected = _textbook(plain, pairs)
    monkeypatch.setattr(LinearHead, "positions", lambda self: 7)
    with architectures.without_float32_casts(model := build()):
        errors = _errors(model, pairs, expected, tokens=4096, shared=True)
    assert max(errors.values()) <= 1e-12


def test_the_head_is_the_fast_one_only_where_it_computes_what_the_model_does() -> None:
    found = {
        name: type(Forward(build(dtype=torch.float32)).head)
        for name, build in _some_heads().items()
    }
    assert found == {
        "llama": LinearHead,
        "llama_tied": LinearHead,
        "granite": LinearHead,
        "cohere": LinearHead,
        "gemma2": ModuleHead,
    }


def _some_heads() -> dict[str, architectures.Builder]:
    return {
        name: architectures.ATTENTION_ONLY[name]
        for name in ("llama", "llama_tied", "granite", "cohere", "gemma2")
    }
