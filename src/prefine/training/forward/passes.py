"""Forward and backward passes of batches: values of scored tokens, gradients from coefficients."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from prefine.errors import Interrupted
from prefine.models.hf.architecture import accepted
from prefine.training.batches.packing import PackedBatch, pack, pad
from prefine.training.distributed.processes import all_max
from prefine.training.forward import head as heads
from prefine.training.forward.attention.interface import attending_trees
from prefine.training.forward.head import Coefficients, Head, RewardHead, head_of
from prefine.training.forward.layers import (
    ComputeDtype,
    computing_in,
    layers_before_head,
    recomputed_layers,
    skip_unscored,
    unwrapped,
)
from prefine.training.forward.token_values import (
    LOGPS_ONLY,
    ItemTokens,
    TokenValues,
    Wanted,
    concatenate_items,
    token_index,
)
from prefine.training.items import TokenizedItem

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass
class Forward:
    """The passes through one model.

    Args:
        model: A causal language model, dropout off.
        dtype: What layers and head compute in; "bfloat16" keeps the weights as they are.
        shared: Compute a prompt once for all its completions, see `sharing.why_not_shared`.
        tokens: Most positions of a packed row, or of a padded batch; a larger group is alone.
        score_prompts: Score prompts, too.
        gradient_checkpointing: Compute layers again in the backward pass instead of keeping their
            activations.
        in_step: Layers are divided among processes, so that each pass needs all of these.
    """

    model: "PreTrainedModel"
    dtype: ComputeDtype = "float32"
    shared: bool = True
    tokens: int = 2048
    score_prompts: bool = False
    gradient_checkpointing: bool = False
    in_step: bool = False

    @property
    def device(self) -> torch.device:
        """The device of the model."""
        return next(self.model.parameters()).device

    @cached_property
    def layers(self) -> nn.Module:
        """The module whose output the head reads, found when it is first needed."""
        return layers_before_head(self.model)

    @cached_property
    def head(self) -> Head:
        """The model's output head, found when it is first needed."""
        return head_of(self.model, self.layers, self.dtype)

    @property
    def gives_rewards(self) -> bool:
        """True for a reward model, whose values are rewards and no log-probabilities."""
        return isinstance(self.head, RewardHead)

    def cut(self, items: Sequence[TokenizedItem], indices: Sequence[int]) -> list[PackedBatch]:
        """Cut items into batches of one pass each; depends on the arguments and settings alone."""
        return (pack if self.shared else pad)(
            items, indices, self.tokens, score_prompts=self.score_prompts
        )

    def passes(
        self, batches: Sequence[PackedBatch], *, backward: bool = False
    ) -> Iterator[PackedBatch]:
        """Yield this process's batches, one for each pass.

        In step, idle passes follow while another process has batches: divided layers would
        otherwise wait for ever.

        Args:
            batches: The batches.
            backward: Each pass has a backward one.
        """
        idle = all_max(len(batches)) - len(batches) if self.in_step else 0
        yield from batches
        for _ in range(idle):
            self._pass_idly(backward=backward)

    @torch.no_grad()
    def values(self, batch: PackedBatch, wanted: Wanted = LOGPS_ONLY) -> TokenValues:
        """Values of all scored tokens, without gradients."""
        batch = batch.to(self.device)
        with self._prepared(batch):
            return heads.score(self.head, self._hidden(batch), batch.targets, wanted)

    def item_values(
        self,
        batches: Sequence[PackedBatch],
        wanted: Wanted = LOGPS_ONLY,
        *,
        should_stop: Callable[[], bool] | None = None,
    ) -> tuple[Int[Tensor, " b"], ItemTokens]:
        """The items of this process's batches, perhaps none, and their values without gradients.

        Raises:
            Interrupted: `should_stop` became true.
        """
        # A process without batches has no value that would say the dtype.
        dtype = torch.promote_types(next(self.model.parameters()).dtype, torch.float32)
        values = TokenValues.empty(torch.empty(0, dtype=dtype, device=self.device), wanted)
        texts = 2 if self.score_prompts else 1
        none = torch.empty(0, dtype=torch.long)
        parts = [ItemTokens(values, none.view(0, texts), none)]
        items = [none]
        for batch in self.passes(batches):
            if should_stop is not None and should_stop():
                raise Interrupted("stopped while scoring; the same command resumes")
            items.append(batch.items)
            parts.append(ItemTokens.of(self.values(batch, wanted), batch, batch.whole_span))
        return torch.cat(items).to(self.device), concatenate_items(parts)

    @torch.no_grad()
    def hidden_sums(self, batch: PackedBatch) -> tuple[Float[Tensor, "c d"], Int[Tensor, " c"]]:
        """Each completion's last hidden states at the positions that predict its tokens, summed.

        With them, how many positions these are, on the CPU.
        """
        batch = batch.to(self.device)
        with self._prepared(batch):
            hidden = self._hidden(batch)
        index, lengths = token_index(batch, batch.whole_span)
        rows = hidden[index.to(self.device)]
        rows = rows.to(torch.promote_types(rows.dtype, torch.float32))
        # A completion's tokens are followed by those of its prompt if prompts are scored.
        sums: Tensor = torch.segment_reduce(
            rows, "sum", lengths=lengths.flatten().to(self.device), initial=0
        )
        return sums[:: lengths.shape[1]], lengths[:, 0]

    @torch.no_grad()
    def head_gradients(
        self, batch: PackedBatch, coefficients: Sequence[Float[Tensor, " S"]]
    ) -> list[Float[Tensor, "V d"]]:
        """The gradients in the head's weight of weighted sums of the scored log-probabilities.

        Args:
            batch: One pass.
            coefficients: The weights of the scored tokens in each sum.
        """
        batch = batch.to(self.device)
        with self._prepared(batch):
            hidden = self._hidden(batch)
        return [
            heads.weight_gradient(self.head, hidden, batch.targets, one.to(hidden))
            for one in coefficients
        ]

    def push(
        self, batch: PackedBatch, coefficients: Coefficients, wanted: Wanted = LOGPS_ONLY
    ) -> None:
        """Add to the parameters' `.grad` the gradient that `coefficients` gives the scored tokens.

        Args:
            batch: One pass.
            coefficients: The objective's derivative in each token's log-probability.
            wanted: The statistics that the coefficients depend on.
        """
        batch = batch.to(self.device)
        # The backward pass is within: layers that it computes again must attend as they did.
        with self._prepared(batch, checkpointing=self.gradient_checkpointing):
            hidden = self._hidden(batch)
            gradient = heads.push(
                self.head, hidden, batch.targets, batch.spans, coefficients, wanted
            )
            if hidden.requires_grad:
                # Torch's own method is not annotated.
                hidden.backward(gradient)  # type: ignore[no-untyped-call]

    def _pass_idly(self, *, backward: bool) -> None:
        """Pass one token through the layers, with a gradient of 0."""
        model = unwrapped(self.model)
        token = torch.zeros(1, 1, dtype=torch.long, device=self.device)
        with (
            recomputed_layers(model) if backward and self.gradient_checkpointing else nullcontext()
        ):
            with torch.set_grad_enabled(backward):
                hidden = self.last_hidden(token)
            if hidden.requires_grad:
                hidden.backward(torch.zeros_like(hidden))  # type: ignore[no-untyped-call]

    def _prepared(self, batch: PackedBatch, *, checkpointing: bool = False) -> ExitStack:
        """Make the model attend as this batch needs it, until the end of the block."""
        model, layers = unwrapped(self.model), self.layers
        with ExitStack() as stack:
            if batch.trees is not None:
                stack.enter_context(attending_trees(model))
                if not self.score_prompts:
                    stack.enter_context(skip_unscored(layers, batch.scored, batch.positions))
            if checkpointing:
                stack.enter_context(recomputed_layers(model))
            return stack.pop_all()

    def _hidden(self, batch: PackedBatch) -> Float[Tensor, "S d"]:
        """The last hidden states at the scored positions."""
        # Rows of their own have the positions that the model itself counts.
        layout: dict[str, Any] = {}
        if batch.trees is not None:
            layout = {"position_ids": batch.position_ids, "trees": batch.trees}
        hidden = self.last_hidden(batch.input_ids, **layout)
        return hidden.flatten(0, 1).index_select(0, batch.scored)

    def last_hidden(self, input_ids: Tensor, **layout: Any) -> Float[Tensor, "rows positions d"]:
        """The last hidden states of some rows."""
        options = accepted(self.layers, use_cache=False)
        with computing_in(self.dtype, self.device):
            output = self.layers(input_ids=input_ids, **options, **layout)
        hidden: Tensor = (
            output.logits if self.layers is unwrapped(self.model) else output.last_hidden_state
        )
        return hidden
