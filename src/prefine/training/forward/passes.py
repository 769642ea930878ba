"""A model as training uses it: rows in, values of scored tokens out, and gradients from coefficients."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from prefine.training.batches.packing import PackedBatch, pack, pad
from prefine.training.distributed.processes import all_max
from prefine.training.forward import head as heads
from prefine.training.forward.attention.interface import attending_trees
from prefine.training.forward.head import (
    Chunked,
    Coefficients,
    ComputeDtype,
    computing_in,
    head_of,
)
from prefine.training.forward.layers import recomputed_layers, skip_unscored, unwrapped
from prefine.training.forward.token_values import LOGPS_ONLY, TokenValues, Wanted
from prefine.training.items import TokenizedPair

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass
class Forward:
    """The passes through one model.

    Args:
        model: A causal language model, dropout off.
        dtype: What layers and head compute in; "bfloat16" keeps the weights as they are.
        shared: Whether a prompt is computed once for all its completions, see
            `sharing.why_not_shared`.
        tokens: Most positions of a row that is packed, or of padded rows together; a larger group
            is alone.
        score_prompts: Whether prompts are scored, too.
        gradient_checkpointing: Whether layers are computed again in the backward pass instead of
            kept.
        in_step: Whether layers are divided among processes, so that each pass needs all of these.
    """

    model: "PreTrainedModel"
    dtype: ComputeDtype = "float32"
    shared: bool = True
    tokens: int = 2048
    score_prompts: bool = False
    gradient_checkpointing: bool = False
    in_step: bool = False
    _head: Chunked | None = field(default=None, init=False, repr=False)

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.model.parameters()).device

    def cut(self, examples: Sequence[TokenizedPair], pairs: Sequence[int]) -> list[PackedBatch]:
        """The pairs as rows that one pass can take; depends on the arguments and the settings alone."""
        return (pack if self.shared else pad)(
            examples, pairs, self.tokens, score_prompts=self.score_prompts
        )

    def passes(
        self, batches: Sequence[PackedBatch], *, backward: bool = False
    ) -> Iterator[PackedBatch]:
        """The rows, one for each pass; in step, followed by idle passes while another process has rows.

        Args:
            batches: This process's rows.
            backward: Whether each is pushed, or only read.
        """
        idle = all_max(len(batches)) - len(batches) if self.in_step else 0
        yield from batches
        for _ in range(idle):
            self._pass_idly(backward=backward)

    @torch.no_grad()
    def values(self, rows: PackedBatch, wanted: Wanted = LOGPS_ONLY) -> TokenValues:
        """Values of all scored tokens, without gradients."""
        rows = rows.to(self.device)
        with self._ready(rows):
            return heads.score(self._head_now(), self._hidden(rows), rows.targets, wanted)

    def push(
        self, rows: PackedBatch, coefficients: Coefficients, wanted: Wanted = LOGPS_ONLY
    ) -> TokenValues:
        """Values of all scored tokens; what `coefficients` makes of them is pushed into the parameters' `.grad`.

        Args:
            rows: One pass.
            coefficients: The objective's derivative in each token's log-probability.
            wanted: Which statistics the coefficients depend on.
        """
        rows = rows.to(self.device)
        # The backward pass is within: layers that it computes again must attend as they did.
        with self._ready(rows, checkpointing=self.gradient_checkpointing):
            hidden = self._hidden(rows)
            values, gradient = heads.push(
                self._head_now(), hidden, rows.targets, rows.spans, coefficients, wanted
            )
            if hidden.requires_grad:
                # Torch's own method is not annotated.
                hidden.backward(gradient)  # type: ignore[no-untyped-call]
        return values

    def _pass_idly(self, *, backward: bool) -> None:
        """A pass of one token that nothing is asked of: its gradient is 0."""
        model = unwrapped(self.model)
        token = torch.zeros(1, 1, dtype=torch.long, device=self.device)
        with (
            recomputed_layers(model) if backward and self.gradient_checkpointing else nullcontext()
        ):
            with torch.set_grad_enabled(backward):
                hidden = self._layers(token, token)
            if hidden.requires_grad:
                hidden.backward(torch.zeros_like(hidden))  # type: ignore[no-untyped-call]

    def _ready(self, rows: PackedBatch, *, checkpointing: bool = False) -> ExitStack:
        """The model made to attend as these rows need it, until the end of the block."""
        model = unwrapped(self.model)
        with ExitStack() as stack:
            if rows.trees is not None:
                stack.enter_context(attending_trees(model))
                if not self.score_prompts:
                    stack.enter_context(skip_unscored(model, rows.scored, rows.positions))
            if checkpointing:
                stack.enter_context(recomputed_layers(model))
            return stack.pop_all()

    def _hidden(self, rows: PackedBatch) -> Float[Tensor, "S d"]:
        """What the head is given at the scored positions."""
        layout: dict[str, Any] = {} if rows.trees is None else {"trees": rows.trees}
        hidden = self._layers(rows.input_ids, rows.position_ids, **layout)
        return hidden.flatten(0, 1).index_select(0, rows.scored)

    def _layers(
        self, input_ids: Tensor, position_ids: Tensor, **layout: Any
    ) -> Float[Tensor, "n T d"]:
        """What all layers make of some rows."""
        with computing_in(self.dtype, self.device):
            given = unwrapped(self.model).base_model(
                input_ids=input_ids, position_ids=position_ids, use_cache=False, **layout
            )
        hidden: Tensor = given.last_hidden_state
        return hidden

    def _head_now(self) -> Chunked:
        if self._head is None:
            self._head = head_of(self.model, self.dtype)
        return self._head
