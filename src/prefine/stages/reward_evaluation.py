"""The evaluation of a trained reward model on held-out items, as the judge `reward` reads it."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from prefine.calls.protocol import Failure
from prefine.config.sections import RunConfig
from prefine.errors import Interrupted
from prefine.metrics.judges.calibration import brier_score, expected_calibration_error
from prefine.metrics.rewards.accuracy import longer_is_better, reward_accuracy
from prefine.models.hf.reward import RewardModel
from prefine.models.protocol import Answered
from prefine.records import MetricValue, Record
from prefine.run.folder import RunFolder
from prefine.run.tables import parts, read_part
from prefine.stages.stage_run import Progress
from prefine.stages.training_inputs import configured_relation, kind_of_table, read_items, trainable
from prefine.training.relations.lists import TokenizedList

_BATCH = 16


class RewardFindings(NamedTuple):
    """The metrics, how many items they are of, and the reasons why others were not scored."""

    metrics: list[MetricValue]
    items: int
    dropped: dict[str, int]


def reward_model(config: RunConfig, folder: RunFolder) -> RewardModel:
    """The trained reward model of a run, on the device of its policy."""
    return RewardModel(
        path=str(folder / "model"),
        dtype="auto",
        device=trainable(config.policy, where="policy").device,
        batch_size=_BATCH,
        max_tokens=None,
    )


def evaluate_rewards(config: RunConfig, folder: RunFolder, progress: Progress) -> RewardFindings:
    """Accuracy and calibration on all pairs of a better and a worse answer of the held-out items.

    P(better) = sigmoid(difference of rewards). Uncertainty is over prompts. The items are those
    that training would read.

    Raises:
        DataError: There is none.
        Interrupted: The user asked to stop.
    """
    table = folder / f"heldout_{configured_relation(config).name}"
    kind = kind_of_table(table, config)
    read = read_items(table, trainable(config.policy, where="policy"), config)
    wanted = {item.id: item for item in read.items}
    answers: list[Answered] = []
    ranks: list[Sequence[int]] = []
    for path in parts(table):
        for row in read_part(path):
            record: Record = kind.record_of(row)
            item = wanted.get(getattr(record, "id", ""))
            if item is not None:
                named = kind.answers(record, item)
                answers += [Answered(one.prompt, one.completion) for one in named]
                ranks.append(item.ranks if isinstance(item, TokenizedList) else (1, 2))
    rewards = _scores(reward_model(config, folder), answers, progress)
    margins: list[float] = []
    lengths: list[tuple[int, int]] = []
    ids: list[str] = []
    dropped = dict(read.dropped)
    start = scored = 0
    for of_item in ranks:
        places = range(start, start + len(of_item))
        failed = [found for i in places if isinstance(found := rewards[i], Failure)]
        if failed:
            dropped[failed[0].reason] = dropped.get(failed[0].reason, 0) + 1
        else:
            scored += 1
            for i in places:
                for j in places:
                    if of_item[i - start] < of_item[j - start]:
                        better, worse = rewards[i], rewards[j]
                        assert not isinstance(better, Failure) and not isinstance(worse, Failure)
                        margins.append(better - worse)
                        both = answers[i].completion.text, answers[j].completion.text
                        lengths.append((len(both[0]), len(both[1])))
                        ids.append(answers[i].prompt.id)
        start += len(of_item)
    return RewardFindings(
        _metrics(config, kind.name, np.array(margins), np.array(lengths), ids) if ids else [],
        scored,
        dropped,
    )


def _scores(
    model: RewardModel, answers: Sequence[Answered], progress: Progress
) -> list[float | Failure]:
    """The reward of each answer, in order; answers of about one length are scored together."""
    order = sorted(range(len(answers)), key=lambda i: len(answers[i].completion.text))
    rewards: list[float | Failure] = [0.0] * len(answers)
    progress.start("evaluate", len(answers), "answers")
    for start in range(0, len(order), _BATCH):
        if progress.stopping:
            raise Interrupted("stopped while scoring; the same command scores anew")
        some = order[start : start + _BATCH]
        found = model.scores([answers[i] for i in some])
        for i, reward in zip(some, found, strict=True):
            rewards[i] = reward
        progress.advance(len(some))
    return rewards


def _metrics(
    config: RunConfig,
    kind: str,
    margins: np.ndarray[tuple[int], np.dtype[np.float64]],
    lengths: np.ndarray[tuple[int, int], np.dtype[np.int64]],
    ids: Sequence[str],
) -> list[MetricValue]:
    samples, seed = config.evaluate.bootstrap_samples, config.evaluate.seed
    right = (np.sign(margins) + 1) / 2
    # The tanh form of the sigmoid, which cannot overflow.
    confidence = 0.5 + 0.5 * np.tanh(np.abs(margins) / 2)
    calibrated = [
        measure(confidence, right, samples=samples, seed=seed, prompt_ids=ids)
        for measure in (brier_score, expected_calibration_error)
    ]
    name = "reward_accuracy" if kind == "pairs" else "reward_ranking_accuracy"
    return [
        reward_accuracy(margins, ids, samples=samples, seed=seed, name=name),
        longer_is_better(lengths[:, 0], lengths[:, 1], ids, samples=samples, seed=seed),
        *calibrated,
    ]
