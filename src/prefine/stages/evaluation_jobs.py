"""Answers to evaluation prompts and judgments of them: what an executor does for `evaluate`."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

from prefine.calls.protocol import Asker
from prefine.config.base import Component
from prefine.config.checking import checked
from prefine.config.sections import Decoding, RunConfig
from prefine.judging.choose import make_judge
from prefine.judging.protocol import Judge, Matchup
from prefine.metrics.protocol import AnswerPair
from prefine.models.capabilities import backend_of
from prefine.models.protocol import At, Samples, decoding_settings
from prefine.records import Judgment, Prompt
from prefine.run.rows import Groups, completion_rows
from prefine.run.tables import part_path, shard_key, write_part
from prefine.stages.shards import ask_shards, sample_shard

MODELS = ("baseline", "trained")
"""The two whose answers are compared, as their tables below `evaluation/` are called."""
BothOrders: TypeAlias = tuple[Judgment, Judgment]
"""The judgments of the trained answer shown first, and of the same shown second."""


class AnswerJob:
    """Samples one answer of a model to each evaluation prompt, and writes their parts.

    Args:
        config: The configuration.
        folder: The run folder.
        which: The index of the model in `MODELS`.
        sampler: The model, if this process has made it already.
    """

    def __init__(
        self, config: RunConfig, folder: Path, *, which: int, sampler: Samples | None = None
    ) -> None:
        self._sampler = models_of(config, folder)[which] if sampler is None else sampler
        self._decoding = drawings(evaluation_decoding(config))[which]
        self._table = folder / "evaluation" / MODELS[which]
        self.concurrency = self._sampler.concurrency

    @property
    def notes(self) -> Sequence[str]:
        """The model's."""
        return self._sampler.notes

    run = ask_shards

    def items(self, shard: list[Prompt]) -> list[Prompt]:
        """The prompts, which are the shard."""
        return shard

    async def work(self, asker: Asker, items: list[Prompt]) -> Groups:
        """Some prompts with their answers."""
        return await sample_shard(asker, self._sampler, items, 1, self._decoding)

    def write(self, number: int, items: list[Prompt], results: Groups) -> Groups:
        """Write a part; return the answers."""
        ids = [prompt.id for prompt in items]
        drawing = decoding_settings(self._decoding)
        key = shard_key("evaluate", self._sampler.fingerprint, drawing, ids)
        path = part_path(self._table, number)
        write_part(path, "completions", completion_rows(results), key=key)
        return results


class BothOrdersJob:
    """Asks the judge about pairs of answers, in both orders.

    Args:
        config: The configuration.
        folder: The run folder.
        judge: The judge, if this process has made it already.
    """

    def __init__(self, config: RunConfig, folder: Path, *, judge: Judge | None = None) -> None:
        if judge is None:
            component = judge_component(config)
            assert component is not None, "there is a judge to ask"
            judge = make_judge(component, where="evaluate.judge")
        self._judge = judge
        self.concurrency = judge.concurrency

    @property
    def notes(self) -> Sequence[str]:
        """The judge's."""
        return self._judge.notes

    run = ask_shards

    def items(self, shard: list[AnswerPair]) -> list[AnswerPair]:
        """The pairs of answers, which are the shard."""
        return shard

    async def work(self, asker: Asker, items: list[AnswerPair]) -> list[BothOrders]:
        """The judgments of some pairs, asked side by side."""
        after_first = [Matchup(one.prompt, one.after, one.before) for one in items]
        before_first = [Matchup(one.prompt, one.before, one.after) for one in items]
        asked = (self._judge.judge(asker, order) for order in (after_first, before_first))
        return list(zip(*await asyncio.gather(*asked), strict=True))

    def write(
        self, number: int, items: list[AnswerPair], results: list[BothOrders]
    ) -> list[BothOrders]:
        """The judgments: the stage writes them, as it has notes on failures to make first."""
        return results


def models_of(config: RunConfig, folder: Path) -> tuple[Samples, Samples]:
    """The baseline and the model that is evaluated, in the order of `MODELS`.

    Raises:
        ConfigError: A name or an option is wrong.
    """
    model, baseline = config.evaluate.model, config.evaluate.baseline
    if isinstance(model, Component):
        after = backend_of(model, Samples, where="evaluate.model")
    else:
        # With the policy's own device, dtype and batch size: what fits one of the two fits the
        # other.
        after = backend_of(config.policy, At, where="policy").at(str(folder / "model"))
    if not isinstance(baseline, Component):
        baseline = config.policy
    return backend_of(baseline, Samples, where="evaluate.baseline"), after


def judge_component(config: RunConfig) -> Component | None:
    """The judge of the evaluation: its own, or that of the ranking."""
    return config.evaluate.judge or (config.rank.judge if config.rank else None)


def evaluation_decoding(config: RunConfig) -> Decoding:
    """The settings with which the evaluation prompts are answered."""
    return config.evaluate.decoding or config.sample or Decoding()


def drawings(decoding: Decoding) -> list[Decoding]:
    """The settings of the baseline and of the trained model: they differ in the seed.

    Raises:
        ConfigError: The seed is the largest that there is.
    """
    return [
        checked(
            Decoding,
            {
                **{name: getattr(decoding, name) for name in Decoding.model_fields},
                "seed": decoding.seed + number,
            },
            where="evaluate.decoding",
        )
        for number in range(len(MODELS))
    ]
