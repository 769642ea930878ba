"""The likelihood budget in TRL: a mixin for its `DPOTrainer`, whose code it does not repeat."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from typing import Any, Literal

from jaxtyping import Float
from torch import Tensor, nn

_TESTED = "1.16"
"""The versions of TRL whose forward pass this reads; see `_logged` for the check on it."""
_TOLERANCE = 1e-4
"""Relative difference between our sums and those that TRL logs, both of float32."""


class BudgetMixin:
    """Adds `weight * mean(max(0, fall - delta))` to the loss of a `DPOTrainer`.

    The fall is how much less likely than at the start a chosen answer has become, in nats:

        class BudgetTrainer(BudgetMixin, DPOTrainer): ...

        trainer = BudgetTrainer(
            model, args=DPOConfig(precompute_ref_log_probs=True), train_dataset=pairs,
            budget_delta=3.0, budget_weight=0.05,
        )

    It logs `budget/fall`, `budget/penalty` and `budget/weight`. With weight 0 the training is that
    of `DPOTrainer`, bit by bit.

    Args:
        arguments: Of `DPOTrainer`.
        budget_delta: How far the chosen answer's log-probability may fall [nats per answer, or per
            token].
        budget_weight: Factor of the penalty, at least 0.
        budget_per: "sequence" budgets the sum over an answer's tokens, "token" their mean.
        options: Of `DPOTrainer`, by name.

    Raises:
        ValueError: The reference is not precomputed or is not the initial policy (`ref_model`), so
            that nothing says how likely answers were at the start; or `ld_alpha` is set, which
            scales the sums.
        ImportError: This version of TRL is not one that the mixin was tested with.
    """

    def __init__(
        self,
        *arguments: Any,
        budget_delta: float = 3.0,
        budget_weight: float = 0.05,
        budget_per: Literal["sequence", "token"] = "sequence",
        **options: Any,
    ) -> None:
        if not (found := version("trl")).startswith(f"{_TESTED}."):
            raise ImportError(
                f"BudgetMixin was tested with trl {_TESTED}, and {found} is installed"
            )
        if not budget_weight >= 0:
            raise ValueError(f"budget_weight must be at least 0 (got {budget_weight})")
        if budget_per not in ("sequence", "token"):
            raise ValueError(f'budget_per must be "sequence" or "token" (got {budget_per!r})')
        self.budget_delta, self.budget_weight = budget_delta, budget_weight
        self.budget_per = budget_per
        super().__init__(*arguments, **options)
        args: Any = self.args  # type: ignore[attr-defined]
        if not args.precompute_ref_log_probs:
            raise ValueError("BudgetMixin needs DPOConfig(precompute_ref_log_probs=True)")
        if (len(arguments) > 1 and arguments[1] is not None) or options.get(
            "ref_model"
        ) is not None:
            raise ValueError(
                "BudgetMixin counts the fall from the initial policy; leave ref_model out"
            )
        if args.ld_alpha is not None:
            raise ValueError("BudgetMixin reads unscaled sums; leave ld_alpha out")

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | None = None,
    ) -> Any:
        """TRL's loss and the penalty on the same forward pass.

        Raises:
            RuntimeError: The sums of log-probabilities are not those that TRL logs: its forward
                pass has changed.
        """
        with _first_output(model) as outputs:
            found = super().compute_loss(  # type: ignore[misc]
                model, inputs, return_outputs, num_items_in_batch
            )
        mask = inputs["completion_mask"][:, 1:]
        # The batch is [chosen, rejected]; some adapters put tokens of their own before the prompt.
        sums: Tensor = outputs[0].log_probs[:, -mask.shape[1] :].sum(1)
        chosen, tokens = sums.chunk(2)[0], mask.sum(1).chunk(2)[0]
        logged = self._logged("logps/chosen", chosen)
        fall = inputs["ref_chosen_logps"] - chosen
        if self.budget_per == "token":
            fall = fall / tokens.clamp(min=1)
        penalty = (fall - self.budget_delta).relu().mean()
        for name, value in (("fall", fall.detach().mean()), ("penalty", penalty.detach())):
            logged[f"budget/{name}"].append(self._mean(value))
        logged["budget/weight"].append(self.budget_weight)
        if self.budget_weight == 0:
            return found
        loss, *rest = found if return_outputs else (found,)
        loss = loss + self.budget_weight * penalty
        return (loss, *rest) if return_outputs else loss

    def _logged(self, name: str, values: Float[Tensor, " B"]) -> Any:
        """TRL's figures of this mode, after a look that its last `name` is our mean."""
        logged = self._metrics["train" if self.model.training else "eval"]  # type: ignore[attr-defined]
        theirs, ours = logged[name][-1], self._mean(values.detach().mean())
        if abs(theirs - ours) > _TOLERANCE * (1 + abs(theirs)):
            raise RuntimeError(
                f"TRL logged {name} {theirs:.6g}, and the hook read {ours:.6g}; this version's "
                "forward pass is not the one that BudgetMixin knows"
            )
        return logged

    def _mean(self, value: Tensor) -> float:
        """The mean over processes, which have equally many pairs."""
        gathered: Tensor = self.accelerator.gather(value)  # type: ignore[attr-defined]
        return float(gathered.mean())


@contextmanager
def _first_output(model: nn.Module) -> Iterator[list[Any]]:
    """Keep the output of the first forward pass in the block, which is the policy's."""
    outputs: list[Any] = []

    def keep(module: nn.Module, inputs: Any, output: Any) -> None:
        if not outputs:
            outputs.append(output)

    handle = model.register_forward_hook(keep)
    try:
        yield outputs
    finally:
        handle.remove()
