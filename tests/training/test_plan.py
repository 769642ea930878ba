"""Which pairs a step takes."""

from prefine.training.step_sources.shuffled import StepSchedule


def test_every_epoch_takes_every_pair_once_in_another_order() -> None:
    plan = StepSchedule(num_items=10, items_per_step=4, epochs=2, seed=0)
    assert (plan.steps_per_epoch, plan.steps) == (3, 6)
    epochs = [
        [index for step in steps for index in plan.items_of(step)]
        for steps in ((0, 1, 2), (3, 4, 5))
    ]
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(10))
    assert epochs[0] != epochs[1]
    assert [len(plan.items_of(step)) for step in range(6)] == [4, 4, 2, 4, 4, 2]


def test_a_step_depends_on_its_number_and_the_seed_alone() -> None:
    plan = StepSchedule(num_items=10, items_per_step=4, epochs=2, seed=0)
    assert plan.items_of(4) == StepSchedule(
        num_items=10, items_per_step=4, epochs=9, seed=0, max_steps=5
    ).items_of(4)
    assert plan.items_of(4) != StepSchedule(
        num_items=10, items_per_step=4, epochs=2, seed=1
    ).items_of(4)
    assert StepSchedule(num_items=10, items_per_step=4, epochs=9, seed=0, max_steps=5).steps == 5
