"""The shape of a packed row: prompts with their completions, one tree after the other."""

from typing import NamedTuple


class Tree(NamedTuple):
    """A prompt and its completions within a row; all numbers are offsets in that row.

    The prompt takes `start` to `start + prompt`, completion k takes `branches[k][0]` to
    `branches[k][1]`. A completion's positions go on from the prompt's end, so a token's position is
    the number of tokens that it sees.
    """

    start: int
    prompt: int
    branches: tuple[tuple[int, int], ...]

    @property
    def stop(self) -> int:
        """The end of the last completion."""
        return self.branches[-1][1] if self.branches else self.start + self.prompt

    @property
    def longest(self) -> int:
        """Positions of the prompt with its longest completion."""
        return self.prompt + max((stop - start for start, stop in self.branches), default=0)


Layout = tuple[Tree, ...]
"""The trees of a row, which fill it from left to right."""
