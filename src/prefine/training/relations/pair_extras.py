"""Values of pairs that only some losses need: of single tokens, of prompts, of other references."""

from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from prefine.losses.other_references import OtherReferences
from prefine.losses.protocol import PromptLogps, TokenLogps
from prefine.losses.token_diff import difference_marks
from prefine.training.relations.pairs import CHOSEN, PROMPT_TOKENS, REJECTED
from prefine.training.relations.protocol import LossExtras, StepTotals

if TYPE_CHECKING:
    from prefine.training.objective.item_table import ItemTable


def token_logps(table: "ItemTable", extras: LossExtras) -> TokenLogps | None:
    """Values of single tokens, where they are known."""
    if extras.tokens is None or table.ref_tokens is None:
        return None
    policy, reference = extras.tokens, table.ref_tokens
    initial = reference if table.initial_tokens is None else table.initial_tokens
    chosen, rejected = policy.padded(CHOSEN), policy.padded(REJECTED)
    marks = _marks(extras, chosen.logps) if "differences" in extras.needs else (None, None)
    return TokenLogps(
        policy_chosen=chosen.logps,
        policy_rejected=rejected.logps,
        ref_chosen=reference.padded(CHOSEN).logps,
        ref_rejected=reference.padded(REJECTED).logps,
        chosen_log_sum_p2=chosen.log_sum_p2,
        rejected_log_sum_p2=rejected.log_sum_p2,
        chosen_marked=marks[0],
        rejected_marked=marks[1],
        initial_chosen=initial.padded(CHOSEN).logps,
    )


def prompt_logps(table: "ItemTable", totals: StepTotals, extras: LossExtras) -> PromptLogps | None:
    """Values of both sides' prompts, where they are known."""
    if extras.tokens is None or table.ref_tokens is None:
        return None
    policy, reference = extras.tokens.prompt_logps(), table.ref_tokens.prompt_logps()
    tokens = table.of_completions["prompt_tokens"]
    return PromptLogps(
        policy_chosen=policy[CHOSEN],
        policy_rejected=policy[REJECTED],
        ref_chosen=reference[CHOSEN],
        ref_rejected=reference[REJECTED],
        chosen_tokens=tokens[CHOSEN],
        rejected_tokens=tokens[REJECTED],
        chosen_tokens_in_step=totals[PROMPT_TOKENS],
    )


def other_references(table: "ItemTable") -> OtherReferences:
    """Values of both sides under all references but the first."""
    compared, none = table.compared, table.tokens.new_empty(0, len(table.tokens))
    rows = [table.references[name][None] for name in compared.names[1:]]
    others = torch.cat([none, *rows])
    return OtherReferences(
        others[:, CHOSEN].T,
        others[:, REJECTED].T,
        compared.weights,
        compared.held_out_weights,
    )


def _marks(extras: LossExtras, like: Tensor) -> list[Float[Tensor, "B longest"]]:
    """1 for scored tokens that only this side of a pair has, of both sides, padded with 0."""
    marks = [
        difference_marks(*(text.scored for text in item.texts), differences=extras.differences)
        for item in extras.items
    ]
    return [
        pad_sequence([torch.tensor(row) for row in side], batch_first=True).to(like)
        for side in zip(*marks, strict=True)
    ]
