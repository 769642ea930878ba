"""Order of the pairs and padded tensors."""

import tiny_training as tiny
import torch

from prefine.training.batches import Plan, collate, micro_batches
from prefine.training.examples import Example


def test_every_epoch_takes_every_pair_once_in_another_order() -> None:
    plan = Plan(num_pairs=10, pairs_per_step=4, epochs=2, seed=0)
    assert (plan.steps_per_epoch, plan.steps) == (3, 6)
    epochs = [[index for step in steps for index in plan.pairs_of(step)] for steps in ((0, 1, 2), (3, 4, 5))]
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(10))
    assert epochs[0] != epochs[1]
    assert [len(plan.pairs_of(step)) for step in range(6)] == [4, 4, 2, 4, 4, 2]


def test_a_step_depends_on_its_number_and_the_seed_alone() -> None:
    plan = Plan(num_pairs=10, pairs_per_step=4, epochs=2, seed=0)
    assert plan.pairs_of(4) == Plan(num_pairs=10, pairs_per_step=4, epochs=9, seed=0, max_steps=5).pairs_of(4)
    assert plan.pairs_of(4) != Plan(num_pairs=10, pairs_per_step=4, epochs=2, seed=1).pairs_of(4)
    assert Plan(num_pairs=10, pairs_per_step=4, epochs=9, seed=0, max_steps=5).steps == 5


def test_a_micro_batch_reads_all_but_the_last_token_and_scores_the_completion() -> None:
    batch = collate([Example("a", (5, 6), (7, 1), (8, 9, 1)), Example("b", (3,), (4,), (2, 1))], [0, 1])
    assert batch.input_ids.tolist() == [[5, 6, 7, 0], [3, 0, 0, 0], [5, 6, 8, 9], [3, 2, 0, 0]]
    assert batch.attention_mask.tolist() == [[1, 1, 1, 0], [1, 0, 0, 0], [1, 1, 1, 1], [1, 1, 0, 0]]
    assert batch.scored.int().tolist() == [[0, 1, 1, 0], [1, 0, 0, 0], [0, 1, 1, 1], [1, 1, 0, 0]]
    assert batch.targets.tolist() == [7, 1, 4, 8, 9, 1, 2, 1]
    assert batch.position_ids[0].tolist() == [0, 1, 2, 3]


def test_micro_batches_hold_like_lengths_and_lose_nothing() -> None:
    examples = tiny.examples(9)
    batches = micro_batches(examples, [8, 1, 5, 3, 2], 2)
    taken = torch.cat([batch.pairs for batch in batches]).tolist()
    assert sorted(taken) == [1, 2, 3, 5, 8]
    lengths = [examples[index].longest for index in taken]
    assert lengths == sorted(lengths, reverse=True)
    assert [len(batch.pairs) for batch in batches] == [2, 2, 1]
