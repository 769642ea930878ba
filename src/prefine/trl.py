"""The likelihood budget in TRL: a mixin for its `DPOTrainer`, whose code it does not repeat."""

import json
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import TrainerCallback
from transformers.trainer_utils import get_last_checkpoint

from prefine.training.budget.probe import fall_of
from prefine.training.budget.settings import AutomaticBudget
from prefine.training.budget.steering import controller_of, relative_error

_TESTED = "1.16"
"""The versions of TRL whose forward pass this reads; see `_logged` for the check on it."""
_TOLERANCE = 1e-4
"""Relative difference between our sums and those that TRL logs, both of float32."""


_STATE = "budget_state.json"


class BudgetMixin:
    """Adds the likelihood budget to the loss of a `DPOTrainer`: with a weight, or automatic.

    With a number as the weight, `weight * mean(max(0, fall - delta))` of the training pairs. The
    fall is how much less likely than at the start a chosen answer has become, in nats:

        class BudgetTrainer(BudgetMixin, DPOTrainer): ...

        trainer = BudgetTrainer(
            model, args=DPOConfig(precompute_ref_log_probs=True), train_dataset=pairs,
            budget_delta=3.0, budget_weight=0.05,
        )

    It logs `budget/fall`, `budget/penalty` and `budget/weight`. With weight 0 the training is that
    of `DPOTrainer`, bit by bit.

    With `budget_weight="auto"`, which needs an `eval_dataset`, `weight * mean(-log-probability of
    the chosen answer)`. Every 3 steps the fall of the `eval_dataset` is measured, and a controller
    moves the weight so that it is delta, as prefine's own training does. The weight counts in units
    of the loss's slope, see `AutomaticBudget`, and its state is in the checkpoints. It logs
    `budget/probe_fall` and `budget/probe_fall_se`. As the controller has seen these pairs, a claim
    about unseen answers needs others: give `eval_dataset={"probe": …, "test": …}`.

    Args:
        arguments: Of `DPOTrainer`.
        budget_delta: How far the chosen answer's log-probability may fall [nats per answer, or per
            token].
        budget_weight: Factor of the penalty, at least 0, or "auto".
        budget_per: "sequence" budgets the sum over an answer's tokens, "token" their mean.
        budget_probe: The name of the data set that "auto" measures, where `eval_dataset` has names.
        options: Of `DPOTrainer`, by name.

    Raises:
        ValueError: An argument is none of those named, or "auto" has nothing to measure. The
            reference is not precomputed or is not the initial policy (`ref_model`), so
            that nothing says how likely answers were at the start; or `ld_alpha` is set, which
            scales the sums.
        ImportError: This version of TRL is not one that the mixin was tested with.
    """

    def __init__(
        self,
        *arguments: Any,
        budget_delta: float = 3.0,
        budget_weight: float | Literal["auto"] = 0.05,
        budget_per: Literal["sequence", "token"] = "sequence",
        budget_probe: str = "probe",
        **options: Any,
    ) -> None:
        if not (found := version("trl")).startswith(f"{_TESTED}."):
            raise ImportError(
                f"BudgetMixin was tested with trl {_TESTED}, and {found} is installed"
            )
        if budget_weight != "auto" and (isinstance(budget_weight, str) or not budget_weight >= 0):
            raise ValueError(f'budget_weight must be at least 0, or "auto" (got {budget_weight!r})')
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
        if budget_weight == "auto":
            self._steering = _Steering(
                AutomaticBudget(delta=float(budget_delta), per=budget_per),
                self._probe_name(budget_probe),
            )
            self.add_callback(self._steering)  # type: ignore[attr-defined]

    def _probe_name(self, name: str) -> str | None:
        """The probe among the evaluation data sets; None where there is one without a name."""
        found: Any = self.eval_dataset  # type: ignore[attr-defined]
        if found is None or (isinstance(found, dict) and name not in found):
            known = "" if found is None else f" named {name!r} (there is {', '.join(found)})"
            raise ValueError(f'budget_weight="auto" measures an eval_dataset{known}; give one')
        return name if isinstance(found, dict) else None

    def train(
        self, resume_from_checkpoint: str | bool | None = None, *arguments: Any, **options: Any
    ) -> Any:
        """Train as `DPOTrainer` does; a resumed training goes on with its budget's weight.

        Raises:
            FileNotFoundError: The checkpoint has no state of an automatic budget.
        """
        if resume_from_checkpoint and self.budget_weight == "auto":
            folder = resume_from_checkpoint
            if folder is True:
                output: Any = self.args.output_dir  # type: ignore[attr-defined]
                folder = get_last_checkpoint(output)  # type: ignore[no-untyped-call]
            if folder is not None:
                self._steering.load(Path(folder) / _STATE)
        return super().train(  # type: ignore[misc]
            resume_from_checkpoint, *arguments, **options
        )

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
        step: int = self.state.global_step  # type: ignore[attr-defined]
        automatic = self.budget_weight == "auto" and model.training
        if automatic and self._steering.is_due(step):
            self._steering.measure(step, self._probe_falls(model))
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
        loss, *rest = found if return_outputs else (found,)
        if self.budget_weight == "auto":
            weight = self._steering.weight(step)
            penalty = -(chosen / tokens.clamp(min=1) if self.budget_per == "token" else chosen)
            penalty = penalty.mean()
            if automatic and self._steering.learns_slope(step):
                self._steering.learn_slope(*self._slope(loss, outputs[0].log_probs, mask))
            for name, figure in self._steering.logged().items():
                logged[f"budget/{name}"].append(figure)
        else:
            weight = self.budget_weight
            penalty = (fall - self.budget_delta).relu().mean()
        for name, value in (("fall", fall.detach().mean()), ("penalty", penalty.detach())):
            logged[f"budget/{name}"].append(self._mean(value))
        logged["budget/weight"].append(weight)
        if weight == 0:
            return found
        loss = loss + weight * penalty
        return (loss, *rest) if return_outputs else loss

    def _probe_falls(self, model: nn.Module) -> Float[Tensor, " n"]:
        """The fall of each chosen answer of the probe, in the budget's unit.

        Neither the random state nor the figures that TRL logs of its evaluations are touched.
        """
        metrics = self._metrics  # type: ignore[attr-defined]
        kept, metrics["eval"] = metrics["eval"], defaultdict(list)
        falls = []
        model.eval()
        try:
            with torch.random.fork_rng(), torch.no_grad():
                for batch in self.get_eval_dataloader(self._steering.probe):  # type: ignore[attr-defined]
                    inputs = self._prepare_inputs(batch)  # type: ignore[attr-defined]
                    with _first_output(model) as outputs:
                        super().compute_loss(model, inputs)  # type: ignore[misc]
                    mask = inputs["completion_mask"][:, 1:]
                    sums = outputs[0].log_probs[:, -mask.shape[1] :].sum(1)
                    fall = inputs["ref_chosen_logps"] - sums.chunk(2)[0]
                    if self.budget_per == "token":
                        fall = fall / mask.sum(1).chunk(2)[0].clamp(min=1)
                    gathered = self.accelerator.gather_for_metrics(fall)  # type: ignore[attr-defined]
                    falls.append(gathered.double().cpu())
        finally:
            model.train()
            metrics["eval"] = kept
        return torch.cat(falls)

    def _slope(
        self, loss: Tensor, log_probs: Float[Tensor, "C T"], mask: Float[Tensor, "C t"]
    ) -> tuple[float, float]:
        """Steepness of the loss: the sizes of its derivatives in tokens' log-probabilities.

        They are added up over an answer, and the two answers of a pair count half each. The second
        number is the same of the mean negative log-probability of an answer.
        """
        (slopes,) = torch.autograd.grad(loss, log_probs, retain_graph=True)
        total = (slopes[:, -mask.shape[1] :].abs() * mask).double().sum() / 2
        lengths = mask.sum(1).double()
        unit = lengths.mean() if self.budget_per == "sequence" else torch.ones_like(total)
        return self._mean(total), self._mean(unit)

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


class _Steering(TrainerCallback):
    """The controller of an automatic budget, its state in the checkpoints.

    Args:
        budget: The options.
        probe: The name of the evaluation data set that is measured; None of the only one.
    """

    def __init__(self, budget: AutomaticBudget, probe: str | None) -> None:
        self.budget, self.probe = budget, probe
        self._controller = controller_of(budget)
        self._slopes, self._units = 0.0, 0.0
        self._first: int | None = None
        self._measured: int | None = None
        self._fall = (0.0, 0.0)

    def weight(self, step: int) -> float:
        """The weight of the penalty; 0 in the first update, where the slope is measured."""
        if self.learns_slope(step):
            return 0.0
        return self._controller.weight * self._slopes / self._units

    def is_due(self, step: int) -> bool:
        """Return True if the probe is to be measured before update `step` (from 0)."""
        return step % self.budget.every == 0 and step != self._measured

    def measure(self, step: int, falls: Float[Tensor, " n"]) -> None:
        """Move the weight by the falls of the probe."""
        self._fall = fall_of(falls, torch.arange(len(falls)), self.budget)
        value, error = self._fall
        delta = self.budget.delta
        assert isinstance(delta, float), "the mixin takes a number"
        self._controller.update(relative_error(value, delta, error))
        self._measured = step

    def learns_slope(self, step: int) -> bool:
        """Return True in all micro-batches of the first update."""
        if self._first is None:
            self._first = step
        return step == self._first

    def learn_slope(self, slopes: float, units: float) -> None:
        """Add a micro-batch of the first update, see `BudgetMixin._slope`."""
        self._slopes += slopes
        self._units += units

    def logged(self) -> dict[str, float]:
        """The figures of the last measurement."""
        return {"probe_fall": self._fall[0], "probe_fall_se": self._fall[1]}

    def on_save(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        """Write the state into the checkpoint that was just made."""
        if state.is_world_process_zero:
            folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            own = {
                "slopes": self._slopes,
                "units": self._units,
                "first": self._first,
                "measured": self._measured,
                "fall": self._fall,
                **self._controller.state_dict(),
            }
            (folder / _STATE).write_text(json.dumps(own), encoding="utf-8")

    def load(self, file: Path) -> None:
        """Go on from the state in a checkpoint.

        Raises:
            FileNotFoundError: It has none.
        """
        if not file.is_file():
            raise FileNotFoundError(
                f'{file} is missing: this checkpoint is not of a training with budget_weight="auto"'
            )
        state = json.loads(file.read_text(encoding="utf-8"))
        self._slopes, self._units = state["slopes"], state["units"]
        self._first, self._measured = state["first"], state["measured"]
        self._fall = tuple(state["fall"])
        self._controller.load_state_dict(state)


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
