"""Pairs that exist already, from a file or from memory: which of them are wanted, and which can be trained on."""

from collections import Counter
from collections.abc import Iterable, Iterator

from prefine.config.sections import PairConfig, TrainConfig
from prefine.data.import_report import ImportReport
from prefine.errors import ConfigError, DataError
from prefine.pairing.filters import PairOptions, refusal
from prefine.records import PreferencePair

ENOUGH = "enough pairs of the prompt"


def check_imported(settings: PairConfig) -> tuple[str, ...]:
    """Notes on what of the section `pair` is of no use to pairs that exist already.

    Raises:
        ConfigError: An option needs the scores of a ranking, or the selector's own options are
            wrong.
    """
    if settings.length_penalty:
        raise ConfigError(
            "pair.length_penalty: corrects the scores of rankings, and this configuration starts "
            "with pairs; "
            "use pair.max_length_ratio"
        )
    if settings.selector == PairConfig().selector:
        return ()
    settings.selector.resolve("selector", where="pair.selector", given=("seed",))
    return (
        f"pair.selector {settings.selector.name!r} is not used: this configuration starts with "
        "pairs",
    )


def wanted(
    pairs: Iterable[PreferencePair], options: PairOptions, dropped: Counter[str]
) -> Iterator[PreferencePair]:
    """Of pairs that exist, those that fulfil the options; the others are counted by reason."""
    taken: Counter[str] = Counter()
    for pair in pairs:
        why = refusal(pair, options)
        if (
            why is None
            and options.pairs_per_prompt is not None
            and taken[pair.prompt.id] >= options.pairs_per_prompt
        ):
            why = ENOUGH
        if why is not None:
            dropped[why] += 1
            continue
        taken[pair.prompt.id] += 1
        yield pair


def readable_by_loss(
    pairs: Iterable[PreferencePair], settings: TrainConfig, screen: ImportReport | None = None
) -> Iterator[PreferencePair]:
    """The same pairs, each of one prompt unless the loss compares answers to two.

    Args:
        pairs: The pairs as they are read.
        settings: Has the loss.
        screen: Counts the rows that they come from, if they do: some rows give no pair.

    Raises:
        DataError: A pair's rejected answer is to another prompt, and the loss is not joint.
    """
    for number, pair in enumerate(pairs, start=1):
        # The loss is imported for such a pair only: reading others needs no torch.
        if pair.rejected_prompt is not None:
            from prefine.losses.facts import reads_of

            if reads_of(settings.loss.resolve("loss", where="train.loss")) != "joint":
                raise DataError(
                    f"{_place(number, pair, screen)}: its rejected answer is to another prompt, "
                    "and train.loss "
                    f"{settings.loss.name!r} is not joint (none in the tables is; one of your own "
                    "declares "
                    "reads='joint'). Remove the rows whose rejected_prompt is set "
                    "(prefine_rejected_prompt_id in "
                    "another run's pairs/), or make the pairs without selector joint"
                )
        yield pair


def stating_enough(
    pairs: Iterable[PreferencePair], settings: TrainConfig, screen: ImportReport | None = None
) -> Iterator[PreferencePair]:
    """The same pairs on their way to training, each with all that the loss and the regularizer read of it.

    Args:
        pairs: The pairs as they are read.
        settings: Has loss and regularizer.
        screen: Counts the rows that they come from, if they do.

    Raises:
        DataError: A pair states no score gap, none states a probability, or all have one prompt,
            and that is read.
        ConfigError: Pairs have different weights, and the loss sorts the pairs of a step.
    """
    from prefine.training.objective.loss_inputs import LossInputCheck, configured_losses

    check = LossInputCheck(configured_losses(settings))
    for number, pair in enumerate(pairs, start=1):
        where = _place(number, pair, screen)
        check.add(pair, pair.prompt.id, where=where)
        yield pair
    check.finish("pairs")


def _place(number: int, pair: PreferencePair, screen: ImportReport | None) -> str:
    """The row that a pair comes from, for messages."""
    return f"pairs, row {number if screen is None else screen.read} ({pair.prompt.text[:40]!r})"
