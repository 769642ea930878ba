"""The exact gradient: equal for any micro-batches, equal to the textbook's row by row, local
and coupled.
"""

from functools import cache, partial

import pytest
import tiny_training as tiny
import torch
from step_gradients import CASES, EXAMPLES, TOKENS, Case, engine, scored, table, textbook
from torch import Tensor
from transformers import (
    CohereConfig,
    CohereForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GraniteConfig,
    GraniteForCausalLM,
)

from prefine.errors import NumericsError
from prefine.losses.facts import kind_of, needs_of, option_of
from prefine.losses.pairs.aot import aot
from prefine.losses.pairs.dpo import dpo
from prefine.losses.protocol import LossFunction, PairLogps, declare
from prefine.losses.regularizers.budget import budget
from prefine.training.forward.passes import Forward
from prefine.training.objective.gradient import accumulate_gradients
from prefine.training.objective.objective import Objective
from prefine.training.reference.scoring import score_completions
from prefine.training.relations.pairs import CHOSEN, REJECTED


def _gradient(objective: Objective) -> Tensor:
    case = Case(objective.loss, objective.regularizer, objective.regularizer_weight)
    return engine(case, 40)[1]


@cache
def _textbook(name: str) -> Tensor:
    return textbook(CASES[name])


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("tokens", TOKENS)
@pytest.mark.parametrize("shared", [True, False], ids=["packed", "padded"])
def test_the_gradient_is_the_textbook_one_for_any_rows(
    name: str, tokens: int, shared: bool
) -> None:
    expected = _textbook(name)
    _, found = engine(CASES[name], tokens, shared=shared)
    assert torch.linalg.norm(found - expected) <= 1e-12 * torch.linalg.norm(expected)
    assert torch.linalg.norm(expected) > 1e-3


def test_a_local_loss_has_the_same_gradient_on_the_coupled_way() -> None:
    local = Objective(dpo, partial(budget, delta=0.5), 0.7)

    @declare(kind="coupled", needs=frozenset({"reference"}))
    def as_coupled(logps: PairLogps) -> Tensor:
        return dpo(logps)

    torch.testing.assert_close(
        _gradient(Objective(as_coupled, partial(budget, delta=0.5), 0.7)),
        _gradient(local),
        rtol=1e-12,
        atol=0,
    )


@pytest.mark.parametrize(
    "model",
    [
        pytest.param(
            lambda: Gemma2ForCausalLM(
                Gemma2Config(
                    vocab_size=40,
                    hidden_size=16,
                    intermediate_size=24,
                    num_hidden_layers=2,
                    num_attention_heads=2,
                    num_key_value_heads=1,
                    head_dim=8,
                    final_logit_softcapping=0.3,
                    sliding_window=4,
                    pad_token_id=0,
                )
            ),
            id="soft-cap-and-sliding-window",
        ),
        pytest.param(
            lambda: CohereForCausalLM(
                CohereConfig(
                    vocab_size=40,
                    hidden_size=16,
                    intermediate_size=24,
                    num_hidden_layers=2,
                    num_attention_heads=2,
                    logit_scale=3.0,
                    pad_token_id=0,
                    bos_token_id=1,
                    eos_token_id=2,
                )
            ),
            id="logit-scale",
        ),
        pytest.param(
            lambda: GraniteForCausalLM(
                GraniteConfig(
                    vocab_size=40,
                    hidden_size=16,
                    intermediate_size=24,
                    num_hidden_layers=2,
                    num_attention_heads=2,
                    logits_scaling=0.2,
                )
            ),
            id="logit-division",
        ),
        pytest.param(
            lambda: GPT2LMHeadModel(
                GPT2Config(vocab_size=40, n_positions=64, n_embd=16, n_layer=2, n_head=2)
            ),
            id="learned-positions-tied-head",
        ),
    ],
)
@pytest.mark.parametrize("shared", [True, False], ids=["packed", "padded"])
def test_log_probabilities_are_those_of_the_models_own_logits(model: object, shared: bool) -> None:
    torch.manual_seed(0)
    made = model().eval()  # type: ignore[operator]
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
        both = score_completions(Forward(made, shared=shared), EXAMPLES)
        for side, found in ((0, both[CHOSEN]), (1, both[REJECTED])):
            for example, value in zip(EXAMPLES, found, strict=True):
                distributions, tokens = scored(made, example.texts[side])
                logps = distributions.gather(1, torch.tensor(tokens)[:, None])
                assert float(value) == pytest.approx(float(logps.sum()), rel=1e-5)
    assert "forward" not in vars(made.base_model)
    assert made.config._attn_implementation != "prefine_tree"


def test_a_pair_that_is_not_finite_is_named() -> None:
    model = tiny.model()
    known = table()
    known.references["reference"][CHOSEN][3] = torch.nan
    forward = Forward(model, tokens=50)
    batches = forward.cut(EXAMPLES, range(len(EXAMPLES)))
    for loss in (dpo, partial(dpo, beta=0.2)):
        with pytest.raises(NumericsError, match=r"step 9: the loss of 1 of .*pair-3\."):
            accumulate_gradients(
                forward, batches, known, Objective(loss), examples=EXAMPLES, step=9
            )


def test_of_a_loss_that_sorts_the_pair_that_is_not_finite_is_named() -> None:
    model, known = tiny.model(), table()
    known.references["reference"][REJECTED][4] = -torch.inf
    forward = Forward(model, tokens=50)
    batches = forward.cut(EXAMPLES, range(len(EXAMPLES)))
    with pytest.raises(
        NumericsError, match=r"the loss of 1 of 7 pairs is not finite.*Pairs: pair-4\."
    ):
        accumulate_gradients(forward, batches, known, Objective(aot), examples=EXAMPLES, step=9)


def test_declarations_are_seen_through_partials_and_absent_ones_are_safe() -> None:
    def undeclared(logps: PairLogps) -> Tensor:
        return logps.policy_chosen

    bound: LossFunction = partial(partial(budget, delta=3.0), per="token")
    assert (kind_of(bound), needs_of(bound)) == ("local", {"initial"})
    assert (option_of(bound, "delta"), option_of(bound, "per"), option_of(bound, "beta")) == (
        3.0,
        "token",
        None,
    )
    assert option_of(budget, "delta") == 5.0
    assert (kind_of(undeclared), needs_of(undeclared)) == ("coupled", {"reference", "initial"})
    assert Objective(dpo, undeclared, 1.0).kind == "coupled"


def test_a_regularizer_of_weight_0_changes_no_bit() -> None:
    assert torch.equal(_gradient(Objective(dpo, budget, 0.0)), _gradient(Objective(dpo)))


def test_bfloat16_computes_near_float32_and_gives_float32_sums() -> None:
    model = tiny.model(dtype=torch.float32)
    exact, rounded = (
        score_completions(Forward(model), EXAMPLES),
        score_completions(Forward(model, "bfloat16"), EXAMPLES),
    )
    assert rounded.dtype == torch.float32
    torch.testing.assert_close(rounded, exact, rtol=0.02, atol=0.2)
    assert not torch.equal(rounded, exact)
