"""The metrics of files about judges and reward models: LLMBar, judgments of ours, RewardBench."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from prefine.metrics.judges.reward_bench import (
    SECTIONS,
    V2_SUBSETS,
    best_of,
    reward_bench_v1,
    reward_bench_v2,
    ties_score,
)
from prefine.metrics.judges.verdicts import (
    first_slot_rate,
    labelled_accuracy,
    order_agreement,
    slot_preference,
    swap_consistency,
    verdict_rates,
)
from prefine.metrics.statistics.intervals import percentage
from prefine.records import MetricValue
from prefine.suites.judgments import read_judgments
from prefine.suites.llmbar import LabelledVerdicts, read_results, read_verdict_table, verdicts_of
from prefine.suites.reward_bench_results import read_item_results, read_pair_results

SAMPLES, SEED = 1000, 0


class Figures(NamedTuple):
    """The metrics of one model or judge, named by `of`; what must be known beside them stands in the notes."""

    of: str
    metrics: tuple[MetricValue, ...]
    notes: tuple[str, ...] = ()


def llmbar(path: Path) -> Iterator[Figures]:
    """LLMBar's result.json."""
    yield _labelled("judge", verdicts_of(read_results(path, judge="")))


def llmbar_table(path: Path) -> Iterator[Figures]:
    """A table of verdicts, by judge, strategy and data set."""
    for (dataset, judge, strategy), rows in read_verdict_table(path).items():
        yield _labelled(", ".join(filter(None, (judge, strategy, dataset))) or "judge", rows)


def _labelled(of: str, rows: LabelledVerdicts) -> Figures:
    accuracy = labelled_accuracy(rows.labels, rows.p_one, rows.p_one_swapped)
    found = habits(of, rows.p_one, rows.p_one_swapped)
    return found._replace(metrics=(*accuracy, *found.metrics))


def habits(
    of: str,
    p_one: Sequence[float | None],
    p_one_swapped: Sequence[float | None],
    *,
    prompt_ids: Sequence[str] | None = None,
) -> Figures:
    """What a judge's two orders say about it; P(answer 1 is better) in both."""
    groups = prompt_ids if prompt_ids is not None else [str(place) for place in range(len(p_one))]
    rates = verdict_rates(
        [*p_one, *p_one_swapped], samples=SAMPLES, seed=SEED, prompt_ids=[*groups, *groups]
    )
    metrics: list[MetricValue] = []
    notes = []
    try:
        agreement = order_agreement(
            p_one, p_one_swapped, samples=SAMPLES, seed=SEED, prompt_ids=prompt_ids
        )
        slots = slot_preference(
            p_one, p_one_swapped, samples=SAMPLES, seed=SEED, prompt_ids=prompt_ids
        )
        metrics += [*agreement, *slots]
    except ValueError as error:
        notes.append(f"no agreement of orders: {error}")
    return Figures(of, (*metrics, *filter(None, rates)), tuple(notes))


def judgments(path: Path) -> Iterator[Figures]:
    """Judgments of ours, by judge."""
    for judge, rows in read_judgments(path).items():
        metrics: list[MetricValue] = []
        known = [
            (p, prompt)
            for p, prompt in zip(rows.p_first, rows.prompt_ids, strict=True)
            if p is not None
        ]
        if known:
            p_first, prompts = [p for p, _ in known], [prompt for _, prompt in known]
            metrics.append(first_slot_rate(p_first, samples=SAMPLES, seed=SEED, prompt_ids=prompts))
        notes = [f"{rows.once:,} judgments were asked in one order only"] if rows.once else []
        try:
            metrics.append(
                swap_consistency(
                    rows.both,
                    rows.swapped,
                    samples=SAMPLES,
                    seed=SEED,
                    prompt_ids=rows.both_prompt_ids,
                )
            )
        except ValueError as error:
            notes.append(f"no consistency: {error}")
        rates = verdict_rates(rows.p_first, samples=SAMPLES, seed=SEED, prompt_ids=rows.prompt_ids)
        yield Figures(judge, (*metrics, *filter(None, rates)), tuple(notes))


# --- RewardBench


def reward_bench(path: Path) -> Iterator[Figures]:
    """Results on the pairs of RewardBench; the overall score where all subsets are there."""
    rows = read_pair_results(path)
    wanted = [subset for group in SECTIONS.values() for subset in group]
    absent = [subset for subset in wanted if subset not in rows.subsets]
    subsets = [
        percentage(
            subset,
            [hit for hit, mine in zip(rows.correct, rows.subsets, strict=True) if mine == subset],
            samples=SAMPLES,
            seed=SEED,
        )
        for subset in dict.fromkeys(rows.subsets)
    ]
    if absent or len(subsets) > len(wanted):
        yield Figures(
            "RewardBench",
            tuple(subsets),
            (_partial(absent, sorted(set(rows.subsets) - set(wanted))),),
        )
        return
    board = reward_bench_v1(rows.correct, rows.subsets, samples=SAMPLES, seed=SEED)
    yield Figures("RewardBench", (board.overall, *board.sections.values(), *subsets))


def reward_bench_2(path: Path) -> Iterator[Figures]:
    """Results on RewardBench 2; the overall score where all subsets are there."""
    rows = read_item_results(path)
    absent = sorted(set(V2_SUBSETS) - set(rows.scores) - ({"Ties"} if rows.ties else set()))
    more = sorted(set(rows.scores) - set(V2_SUBSETS))
    if rows.ties is not None and not absent and not more:
        board = reward_bench_v2(rows.scores, *rows.ties, samples=SAMPLES, seed=SEED)
        yield Figures("RewardBench 2", (board.overall, *board.subsets.values()))
        return
    subsets = [
        percentage(subset, best_of(scores), samples=SAMPLES, seed=SEED)
        for subset, scores in rows.scores.items()
    ]
    if rows.ties is not None:
        subsets.append(ties_score(*rows.ties, samples=SAMPLES, seed=SEED))
    yield Figures("RewardBench 2", tuple(subsets), (_partial(absent, more),))


def _partial(absent: Sequence[str], more: Sequence[str]) -> str:
    said = [f"without {', '.join(absent)}"] if absent else []
    said += [f"with {', '.join(more)}, of no section"] if more else []
    return f"no overall score: {' and '.join(said)}"
