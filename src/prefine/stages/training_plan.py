"""The memory that training would take, for the dry run, and what to change where there is less."""

from collections.abc import Iterator

from prefine.config.sections import RunConfig
from prefine.config.training import AdapterConfig, TrainConfig
from prefine.models.protocol import HasWeights
from prefine.stages.planned_amount import PlannedAmount
from prefine.stages.references import references_of
from prefine.stages.training_inputs import trainable
from prefine.training.memory import free_bytes
from prefine.training.memory_estimate import training_memory

_GIB = 2**30
_FEWER_TOKENS = 512


def planned_memory(config: RunConfig) -> tuple[PlannedAmount, str | None]:
    """The memory of training, and a note if the device has less than training needs.

    Raises:
        BackendError: A model cannot be read.
    """
    policy = trainable(config.policy, where="policy")
    what = f"memory of training on {policy.device}, about"
    try:
        needed = _total(policy, config, config.train)
    except (AttributeError, NotImplementedError, RuntimeError, TypeError, ValueError) as error:
        # Layers that look at values cannot be passed without weights.
        reason = str(error).partition("\n")[0][:100]
        return PlannedAmount(what, None), f"the memory of training is not estimated: {reason}"
    amount = PlannedAmount(what, needed / _GIB, "GiB")
    free = free_bytes(policy.device)
    if free is None or needed <= free:
        return amount, None
    # Each estimate builds the model's shapes anew: the first that fits is enough.
    remedy = next(
        (what for what, other in _smaller(config.train) if _total(policy, config, other) <= free),
        "use a smaller model, or more or larger devices",
    )
    return amount, (
        f"training needs about {needed / _GIB:,.1f} GiB and {policy.device} has "
        f"{free / _GIB:,.1f} GiB free: {remedy}"
    )


def _total(policy: HasWeights, config: RunConfig, train: TrainConfig) -> int:
    models = [one.model for one in references_of(config)]
    device = policy.device.partition(":")[0]
    # One is in memory at a time.
    return max(
        training_memory(
            policy.path, train, device=device, reference=None if one is None else one.path
        ).total
        for one in models
    )


def _smaller(train: TrainConfig) -> Iterator[tuple[str, TrainConfig]]:
    """Settings that take less memory, the mildest first, each with the sentence that names it."""
    frugal = train.model_copy(update={"gradient_checkpointing": True})
    yield "set train.gradient_checkpointing: true", frugal
    tokens = min(_FEWER_TOKENS, train.micro_batch_tokens)
    frugal = frugal.model_copy(update={"micro_batch_tokens": tokens})
    yield (
        f"set train.gradient_checkpointing: true and train.micro_batch_tokens: {tokens}",
        frugal,
    )
    if train.adapter is None:
        lora = frugal.model_copy(update={"adapter": AdapterConfig(name="lora")})
        yield "train an adapter: set train.adapter: {name: lora}", lora
        yield (
            "train an adapter in half precision: set train.adapter: {name: lora} and train.dtype: "
            "bfloat16",
            lora.model_copy(update={"dtype": "bfloat16"}),
        )
