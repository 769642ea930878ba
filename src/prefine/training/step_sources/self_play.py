"""Self-play: an average of the policy rewrites a segment of each answer, which is rejected then."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from prefine.config.base import Share
from prefine.config.training import TrainConfig
from prefine.errors import ConfigError, DataError
from prefine.models.hf.generation import draw
from prefine.models.hf.open_rows import Way
from prefine.models.hf.smaller_batches import fastest_way
from prefine.training.distributed import processes
from prefine.training.items import Ids
from prefine.training.reference.prepare import PreparedItems
from prefine.training.relations.pairs import TokenizedPair
from prefine.training.step_sources.moving_average import Follower
from prefine.training.step_sources.protocol import Prepare, StepItems
from prefine.training.step_sources.replay_buffer import Entry, ReplayBuffer
from prefine.training.step_sources.shuffled import StepSchedule

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Count = Annotated[int, Field(ge=1)]

ROWS = 64
"""Answers that are rewritten in one batch."""
_LAST_TOKENS = 3
"""A segment that does not span the whole answer ends at least so many tokens before its end."""


class SelfPlay:
    """Pairs of each item's chosen answer and the same answer with a segment of the model's own.

    SAPO, arXiv:2405.20830; see `StepSource`. An item's rejected answer, if it has one, is not
    used. A step rewrites the answers of its items with an average of the policy's weights
    (`average` ← ema · average + (1 - ema) · policy), puts them into a replay buffer, and trains on
    as many draws from it as a step has items. The average, a moving reference, the buffer with its
    counts and the random numbers' state are in the checkpoint.

    Args:
        items: Pairs; the chosen side is the reference answer.
        prepare: Scores pairs under the reference.
        settings: The section `train`.
        ema: What the average keeps of itself at an update; 0 is the policy, 1 the initial policy.
            Default: paper.
        ema_every: Steps between its updates. Default: paper.
        segment_tokens: The longest segment; null rewrites whole answers. Default: paper.
        buffer_size: The most rewritten answers in the buffer; the oldest leave it. Default: paper.
        samples_per_answer: Rewritten versions of each answer of a step. Default: paper.
        sample_every: Rewrite answers in one of so many steps. Default: paper.
        temperature: Of sampling; 0 is greedy. Default: paper.
        top_k: Sample of so many tokens, the likeliest; null of all. Default: paper.
        top_p: Sample of the likeliest tokens up to this mass. Default: paper.
        reference: What losses compare with: `ema` and `policy` take over the average or the policy
            every `reference_every` steps, `fixed` stays the initial policy. Default: paper.
        reference_every: Steps between these, in the paper's code. Default: paper.

    Raises:
        ConfigError: `train.reference` names a model.
        DataError: Items are no pairs, or have several turns, or most answers have no end.
    """

    @staticmethod
    def weight_copies(options: Mapping[str, Any]) -> int:
        """Copies of what is trained that it holds: the average, and a reference that moves."""
        return 1 if options.get("reference") == "fixed" else 2

    on_demand: ClassVar[bool] = True
    takes_answers: ClassVar[bool] = True

    def __init__(
        self,
        items: Sequence[Any],
        prepare: Prepare,
        settings: TrainConfig,
        *,
        ema: Share = 0.5,
        ema_every: Count = 2,
        segment_tokens: Count | None = 256,
        buffer_size: Count = 2000,
        samples_per_answer: Count = 1,
        sample_every: Count = 1,
        temperature: Annotated[float, Field(ge=0)] = 0.7,
        top_k: Count | None = 50,
        top_p: Annotated[float, Field(gt=0, le=1)] = 0.95,
        reference: Literal["fixed", "ema", "policy"] = "ema",
        reference_every: Count = 108,
    ) -> None:
        _check(items, settings)
        self._items: Sequence[TokenizedPair] = items
        self._prepare, self._per_step = prepare, settings.pairs_per_step
        self._schedule = StepSchedule(
            len(items),
            settings.pairs_per_step,
            settings.epochs,
            settings.seed,
            settings.max_steps,
        )
        self._ema, self._ema_every = ema, ema_every
        self._segment, self._samples, self._sample_every = (
            segment_tokens,
            samples_per_answer,
            sample_every,
        )
        self._stop = _stop_token(items)
        self._decode = partial(
            draw,
            group=1,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            stop_ids=frozenset([self._stop]),
        )
        self._mode, self._reference_every = reference, reference_every
        self._rng = np.random.default_rng([settings.seed, _STREAM])
        self._buffer = ReplayBuffer(buffer_size)
        self._made = 0
        self._average: Follower
        self._reference: Follower | None = None
        self._policy: PreTrainedModel
        self._way: Way

    @property
    def steps(self) -> int:
        """Updates of the whole training: as many as of all items, shuffled."""
        return self._schedule.steps

    @property
    def steps_per_epoch(self) -> int:
        """Updates in which the answer of every item is rewritten."""
        return self._schedule.steps_per_epoch

    def follow(self, policy: "PreTrainedModel") -> None:
        """Take the policy with its initial weights.

        Raises:
            ConfigError: Several processes train.
        """
        if processes.together():
            raise ConfigError(
                "train.step_source: self_play trains in one process: all steps draw from one "
                "buffer of rewritten answers, and several processes would have to rewrite them in "
                "the same batches to get the same bits, with weights that may be divided between "
                "them. Start it without a launcher (prefine train), or use step_source: shuffled"
            )
        self._policy, self._average = policy, Follower(policy)
        model = self._average.model
        # Found with the initial weights, so that a resumed training goes the same way.
        self._way = fastest_way(model, self._stop)

    def next(self, step: int) -> StepItems:
        """Move the average and the reference, rewrite answers, and draw pairs of the buffer."""
        if step and step % self._ema_every == 0:
            self._average.average(self._ema)
        if step and step % self._reference_every == 0 and self._mode != "fixed":
            self._move_reference()
        if step % self._sample_every == 0:
            indices = self._schedule.items_of(step)
            self._rewrite([index for index in indices for _ in range(self._samples)])
        drawn = self._buffer.draw(self._per_step, self._rng)
        return StepItems(self._prepared(drawn), range(len(drawn)))

    def measured_at_end(self) -> PreparedItems:
        """All pairs that are in the buffer."""
        return self._prepared(self._buffer.entries)

    def state_dict(self) -> dict[str, Any]:
        """The buffer, how many answers were rewritten, and the random numbers' state."""
        return {
            "buffer": self._buffer.state_dict(),
            "made": self._made,
            "random": self._rng.bit_generator.state,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a state."""
        self._buffer.load_state_dict(state["buffer"])
        self._made = state["made"]
        self._rng.bit_generator.state = state["random"]

    def tensors(self) -> dict[str, Tensor]:
        """The weights of the average, and of a reference that has moved."""
        followers = {_AVERAGE: self._average, _REFERENCE: self._reference}
        return {
            f"{prefix}{name}": tensor
            for prefix, follower in followers.items()
            if follower is not None
            for name, tensor in follower.tensors().items()
        }

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Continue from the result of `tensors`."""
        self._average.load(_of(tensors, _AVERAGE))
        if moved := _of(tensors, _REFERENCE):
            self._reference = self._reference or Follower(self._policy)
            self._reference.load(moved)

    def _move_reference(self) -> None:
        if self._reference is None:
            self._reference = Follower(self._policy)
        if self._mode == "policy":
            self._reference.average(0.0)
        else:
            self._reference.load(self._average.tensors())

    def _rewrite(self, indices: Sequence[int]) -> None:
        """Rewrite a segment of the answers of some items, in batches, and keep the results."""
        answers = [self._items[index].chosen_ids for index in indices]
        lengths = [segment_length(answer, self._segment) for answer in answers]
        starts = [
            draw_start(answer, length, self._rng)
            for answer, length in zip(answers, lengths, strict=True)
        ]
        generated: list[Ids] = []
        for first in range(0, len(indices), ROWS):
            part = slice(first, first + ROWS)
            prompts = [
                [*self._items[index].prompt_ids, *answer[:start]]
                for index, answer, start in zip(
                    indices[part], answers[part], starts[part], strict=True
                )
            ]
            streams = self._rng.random((len(prompts), max(lengths[part])))
            with torch.inference_mode():
                read = self._way(self._average.model, prompts, pad_id=self._stop, fed=True)
            drawn = self._decode(read, streams=streams, wanted=[True] * len(prompts))
            generated += [one.token_ids for one in drawn if one is not None]
        entries = []
        for index, answer, start, length, segment in zip(
            indices, answers, starts, lengths, generated, strict=True
        ):
            rewritten = splice(answer, start, length, segment, stop=self._stop)
            entries.append(Entry(index, self._made, rewritten))
            self._made += 1
        self._buffer.push(entries)

    def _prepared(self, entries: Sequence[Entry]) -> PreparedItems:
        pairs = [
            replace(
                self._items[entry.item],
                id=f"{self._items[entry.item].id}/{entry.number}",
                rejected_ids=entry.ids,
                # What was known of the pair that was given is not known of this one.
                p_chosen=None,
                score_gap=None,
                rejected_prompt_ids=None,
            )
            for entry in entries
        ]
        moved = None if self._reference is None else self._reference.model
        return self._prepare(pairs, reference=moved, kept=False)


def segment_length(answer: Ids, longest: int | None) -> int:
    """The tokens of an answer that are rewritten; its stop token is one of the answer's."""
    return len(answer) if longest is None else min(longest, len(answer))


def draw_start(answer: Ids, length: int, rng: np.random.Generator) -> int:
    """Draw where the segment begins; at 0 if three tokens would not be left behind it."""
    last = len(answer) - _LAST_TOKENS - length
    return int(rng.integers(0, last, endpoint=True)) if last > 0 else 0


def splice(answer: Ids, start: int, length: int, generated: Ids, *, stop: int) -> Ids:
    """Return an answer with a segment replaced; one that stops within the segment ends there.

    Args:
        answer: The reference answer.
        start: Where the segment begins.
        length: Its tokens.
        generated: The tokens that follow `answer[:start]`; what is behind the segment is cut.
        stop: The token that ends an answer.
    """
    segment = generated[:length]
    if stop in segment:
        return answer[:start] + segment[: segment.index(stop) + 1]
    return answer[:start] + segment + answer[start + length :]


_AVERAGE, _REFERENCE = "average.", "reference."
_STREAM = 2405
"""Keeps the random numbers apart from those of other parts of a training with the same seed."""


def _of(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }


def _check(items: Sequence[Any], settings: TrainConfig) -> None:
    if settings.reference != "initial":
        raise ConfigError(
            "train.step_source: self_play has a reference of its own (its option reference: fixed, "
            "ema or policy); take train.reference out"
        )
    for item in items:
        if not isinstance(item, TokenizedPair):
            raise DataError(
                f"train.step_source: self_play makes pairs of reference answers, and {item.word} "
                f"{item.id} is no pair; choose a train.loss that reads pairs"
            )
        if item.chosen_turns:
            raise DataError(
                f"train.step_source: self_play rewrites answers of one turn, and the chosen answer "
                f"of pair {item.id} has {len(item.chosen_turns)}; leave it out"
            )


def _stop_token(items: Sequence[TokenizedPair]) -> int:
    """The token that ends the answers: of all but those that were cut."""
    ((token, count),) = Counter(item.chosen_ids[-1] for item in items).most_common(1)
    if 2 * count <= len(items):
        raise DataError(
            "train.step_source: self_play rewrites whole answers, and most are cut, as no token "
            f"ends more than {count} of {len(items)}; raise train.max_completion_tokens"
        )
    return token
