"""Sizes to which a batch of open rows may shrink, so that no bit of a row changes."""

from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from prefine.models.hf.one_token_attention import attend_by_products
from prefine.models.hf.open_rows import PaddedPrompts, PaddedRows, Way, way_of

_LANES = 16
"""Numbers of four bytes that the widest vector registers hold."""
_PARTS = 8


def fastest_way(model: Any, pad_id: int) -> Way:
    """Make a model ready to continue rows, and return the fastest way to do so.

    Args:
        model: A causal language model of transformers, in eval mode; on a CPU it attends by
            products from here on.
        pad_id: Token for padding.
    """
    attend_by_products(model)
    way = way_of(model, pad_id)
    if way is PaddedPrompts:
        return partial(PaddedPrompts, smaller=SmallerBatches(model, pad_id))
    return way


class SmallerBatches:
    """Sizes of a batch at which a model gives each row the very bits that it has in a larger one.

    The matrix products of a library choose their order of additions by the number of rows. On a CPU
    that is the same for many numbers, and which these are is found by trying: a text is read in
    every row, then in some of them alone. On accelerators the order depends on more than
    can be tried, and with experts on the routes of all rows, so no batch becomes smaller there.

    Args:
        model: The model.
        pad_id: Token for padding.
    """

    def __init__(self, model: Any, pad_id: int) -> None:
        self._model, self._pad_id = model, pad_id
        # An expert multiplies the rows that are routed to it, and these depend on the others.
        settings = model.config.get_text_config().to_dict()
        self._routes = any("expert" in name and value for name, value in settings.items())
        self._tried: dict[tuple[int, int], bool] = {}
        self._whole: dict[int, Float[Tensor, "steps vocabulary"] | None] = {}

    def smallest(self, rows: int, alive: int) -> int:
        """Return the smallest size for `alive` of the `rows` of a batch; sizes are eighths of it.

        Args:
            rows: The size at which the batch began.
            alive: How many rows must stay.
        """
        if self._model.device.type != "cpu" or self._routes:
            return rows
        for eighths in range(1, _PARTS):
            size = rows * eighths // _PARTS
            if size >= max(alive, 1) and self._is_same(rows, size):
                return size
        return rows

    def _is_same(self, rows: int, size: int) -> bool:
        if (rows, size) not in self._tried:
            self._tried[rows, size] = self._try(rows, size)
        return self._tried[rows, size]

    def _try(self, rows: int, size: int) -> bool:
        """Tell whether one text has the same bits in every place of both batches.

        With some processors and threads the last numbers of a product or of an attention are
        computed in another way than those before them, and a row changes its place when others
        leave.
        """
        if rows not in self._whole:
            self._whole[rows] = self._continued(rows, rows)
        whole = self._whole[rows]
        part = None if whole is None else self._continued(rows, size)
        return whole is not None and part is not None and torch.equal(whole, part)

    def _continued(self, rows: int, size: int) -> Float[Tensor, "steps vocabulary"] | None:
        """The logits of one text in `size` of `rows` rows; None if its rows do not have the same.

        It is continued by so many tokens that the lengths have every remainder of a vector's.
        """
        vocabulary = self._model.get_input_embeddings().weight.shape[0]
        text = ((torch.arange(2 * _LANES) * 7 + 3) % vocabulary).tolist()
        prompt, after = text[: _LANES - 1], text[_LANES:]
        # Read once for all rows, as prompts are; padded, so that attention has a mask.
        read = PaddedPrompts(self._model, [prompt], pad_id=self._pad_id, fed=True, width=_LANES)
        opened = read.rows(rows)
        assert isinstance(opened, PaddedRows)
        opened.keep(torch.arange(size))
        steps = []
        for token in after:
            logits = opened.feed(torch.tensor([token] * size))
            if not bool((logits == logits[0]).all()):
                return None
            steps.append(logits[0])
        return torch.stack(steps)
