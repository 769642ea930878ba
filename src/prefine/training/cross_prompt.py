"""Answers to other prompts: their log-ratios show how far the policy is from the reference."""

from collections.abc import Sequence

from prefine.errors import DataError
from prefine.training.items import PlainItem, TokenizedItem


def cross_prompt_items(items: Sequence[TokenizedItem]) -> list[PlainItem]:
    """Each prompt with the completions of the next item (in a circle) that has another prompt.

    Partners are fixed for the whole training, so that the reference scores each once. They are of
    the same kind: pairs, lists or labelled answers.

    Raises:
        DataError: All items have the same prompt.
    """
    words = {item.word: None for item in items}
    if len(words) < 2:
        return _of_one_kind(items)
    of_kind = {word: iter(_of_one_kind([i for i in items if i.word == word])) for word in words}
    return [next(of_kind[item.word]) for item in items]


def _of_one_kind(items: Sequence[TokenizedItem]) -> list[PlainItem]:
    prompts = [item.texts[0].prompt for item in items]
    if len(set(prompts)) < 2:
        raise DataError(
            f"all {items[0].word}s have the same prompt, and the loss reads answers to other "
            "prompts; choose another train.loss"
        )
    # First find the partners from the last item to the first, then a second time around the
    # circle: item i takes item i + 1, or that item's own partner if the two share a prompt,
    # because the partner is known by then.
    count = len(items)
    partners = [0] * count
    for index in [*reversed(range(count)), *reversed(range(count))]:
        neighbour = (index + 1) % count
        same = prompts[neighbour] == prompts[index]
        partners[index] = partners[neighbour] if same else neighbour
    return [
        PlainItem(
            id=f"{item.id} with the answers of {items[partner].id}",
            texts=tuple(text._replace(prompt=prompt) for text in items[partner].texts),
            word=item.word,
        )
        for item, prompt, partner in zip(items, prompts, partners, strict=True)
    ]
