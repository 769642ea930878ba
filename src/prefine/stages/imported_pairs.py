"""Pairs that exist already, from a file or from memory: which of them are wanted, and which can be trained on."""

from collections import Counter
from collections.abc import Iterable, Iterator

from prefine.config import PairConfig, TrainConfig
from prefine.errors import ConfigError, DataError
from prefine.pairing.options import PairOptions, refusal
from prefine.records import PreferencePair
from prefine.store.screen import Screen

ENOUGH = "enough pairs of the prompt"


def check_imported(settings: PairConfig) -> tuple[str, ...]:
    """Notes on what of the section `pair` is of no use to pairs that exist already.

    Raises:
        ConfigError: An option needs the scores of a ranking, or the selector's own options are wrong.
    """
    if settings.length_penalty:
        raise ConfigError(
            "pair.length_penalty: corrects the scores of rankings, and this configuration starts with pairs; "
            "use pair.max_length_ratio"
        )
    if settings.selector == PairConfig().selector:
        return ()
    settings.selector.resolve("selector", where="pair.selector", given=("seed",))
    return (f"pair.selector {settings.selector.name!r} is not used: this configuration starts with pairs",)


def wanted(pairs: Iterable[PreferencePair], options: PairOptions, dropped: Counter[str]) -> Iterator[PreferencePair]:
    """Of pairs that exist, those that fulfil the options; the others are counted by reason."""
    taken: Counter[str] = Counter()
    for pair in pairs:
        why = refusal(pair, options)
        if why is None and options.pairs_per_prompt is not None and taken[pair.prompt.id] >= options.pairs_per_prompt:
            why = ENOUGH
        if why is not None:
            dropped[why] += 1
            continue
        taken[pair.prompt.id] += 1
        yield pair


def readable_by_loss(
    pairs: Iterable[PreferencePair], settings: TrainConfig, screen: Screen | None = None
) -> Iterator[PreferencePair]:
    """The same pairs, each of one prompt unless the loss compares answers to two.

    Args:
        pairs: The pairs as they are read.
        settings: Has the loss.
        screen: Counts the rows that they come from, if they do: some rows give no pair.

    Raises:
        DataError: A pair's rejected answer is to another prompt, and the loss is not joint; or it states no score gap,
            and the loss reads it.
    """
    # The loss brings torch, which only training needs: whoever only reads this module does not pay for it.
    from prefine.losses.facts import needs_of, reads_of

    name = settings.loss.name
    loss = settings.loss.resolve("loss", where="train.loss")
    joint, by_gap = reads_of(loss) == "joint", "score_gap" in needs_of(loss)
    for number, pair in enumerate(pairs, start=1):
        where = f"pairs, row {number if screen is None else screen.read} ({pair.prompt.text[:40]!r})"
        if pair.rejected_prompt is not None and not joint:
            raise DataError(
                f"{where}: its rejected answer is to another prompt, and train.loss {name!r} is not joint (none in the "
                "tables is; one of your own declares reads='joint'). Remove the rows whose rejected_prompt is set "
                "(prefine_rejected_prompt_id in another run's pairs/), or make the pairs without selector joint"
            )
        if by_gap and pair.score_gap is None:
            raise DataError(
                f"{where}: states no score_gap, which train.loss {name!r} reads; give all rows the column score_gap, "
                "or score_chosen and score_rejected, or choose another train.loss"
            )
        yield pair
