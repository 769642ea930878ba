"""Which pairs a step takes, and their padded tensors: functions of the step number and the seed alone."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from prefine.training.examples import Example


@dataclass(frozen=True)
class Plan:
    """The order of the pairs over all epochs. The last step of an epoch may be smaller; none is left out."""

    num_pairs: int
    pairs_per_step: int
    epochs: int
    seed: int
    max_steps: int | None = None

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps in an epoch."""
        return -(-self.num_pairs // self.pairs_per_step)

    @property
    def steps(self) -> int:
        """Optimizer steps of the whole training."""
        planned = self.steps_per_epoch * self.epochs
        return planned if self.max_steps is None else min(planned, self.max_steps)

    def pairs_of(self, step: int) -> list[int]:
        """Indices of the pairs that step number `step` (from 0) averages over."""
        epoch, position = divmod(step, self.steps_per_epoch)
        order = np.random.default_rng([self.seed, epoch]).permutation(self.num_pairs)
        start = position * self.pairs_per_step
        return [int(index) for index in order[start : start + self.pairs_per_step]]


@dataclass(frozen=True)
class MicroBatch:
    """b pairs as 2b right-padded rows: the chosen sides, then the rejected ones.

    A row holds the prompt and its completion without the last token. `scored` marks the positions whose next token
    belongs to the completion, `targets` are those tokens in row order.
    """

    pairs: Int[Tensor, " b"]
    input_ids: Int[Tensor, "rows positions"]
    attention_mask: Int[Tensor, "rows positions"]
    position_ids: Int[Tensor, "rows positions"]
    scored: Bool[Tensor, "rows positions"]
    targets: Int[Tensor, " scored"]

    def to(self, device: torch.device) -> "MicroBatch":
        """The same on another device."""
        return MicroBatch(**{name: tensor.to(device) for name, tensor in vars(self).items()})


def micro_batches(examples: Sequence[Example], pairs: Sequence[int], micro_batch_pairs: int) -> list[MicroBatch]:
    """Cut a step's pairs into padded micro-batches, longest first so that rows of like length meet.

    Args:
        examples: All examples.
        pairs: Indices of those that are wanted.
        micro_batch_pairs: Most pairs in one micro-batch.
    """
    by_length = sorted(pairs, key=lambda index: -examples[index].longest)
    return [
        collate(examples, by_length[start : start + micro_batch_pairs])
        for start in range(0, len(by_length), micro_batch_pairs)
    ]


def collate(examples: Sequence[Example], pairs: Sequence[int]) -> MicroBatch:
    """Pad the given pairs into one micro-batch."""
    sides = [(examples[index].prompt_ids, examples[index].chosen_ids) for index in pairs]
    sides += [(examples[index].prompt_ids, examples[index].rejected_ids) for index in pairs]
    positions = max(len(prompt) + len(completion) - 1 for prompt, completion in sides)
    # Token 0 as padding is harmless: no real token attends to it and it is not scored.
    input_ids = np.zeros((len(sides), positions), dtype=np.int64)
    attention_mask = np.zeros_like(input_ids)
    scored = np.zeros(input_ids.shape, dtype=bool)
    targets: list[int] = []
    for row, (prompt, completion) in enumerate(sides):
        length = len(prompt) + len(completion) - 1
        input_ids[row, :length] = prompt + completion[:-1]
        attention_mask[row, :length] = 1
        scored[row, len(prompt) - 1 : length] = True
        targets.extend(completion)
    return MicroBatch(
        pairs=torch.tensor(pairs),
        input_ids=torch.from_numpy(input_ids),
        attention_mask=torch.from_numpy(attention_mask),
        position_ids=torch.arange(positions).expand(len(sides), -1),
        scored=torch.from_numpy(scored),
        targets=torch.tensor(targets),
    )
