"""Time, calls, money, memory and disk of a run of any size, from measured rates; what ends first.

Everything here is proportional to the number of prompts, which is what `benchmarks/scale.py`
measures; what is not, such as a disk that seeks for every answer, is among the limits.
"""

from collections.abc import Iterator
from typing import NamedTuple

GIB = 2**30
DAY_S = 86_400.0


class Rates(NamedTuple):
    """The cost of one more prompt: measured by `benchmarks/scale.py`, on one core [s], [bytes].

    `base_mib` is the memory of a process that has just begun; `memory_bytes` what one more prompt
    adds to the largest process of any stage. `absorb_s` is for taking one answer over into the
    journal from the part of a worker, which one process does for all. A sampled answer is taken to
    cost what a judgment does.
    """

    import_s_per_completion: float = 0.0
    rank_s_per_call: float = 0.0
    pair_s_per_prompt: float = 0.0
    absorb_s_per_answer: float = 0.0
    base_mib: float = 0.0
    memory_bytes_per_prompt: float = 0.0
    table_bytes_per_completion: float = 0.0
    journal_bytes_per_answer: float = 0.0


MEASURED = Rates(
    import_s_per_completion=0.000132,
    rank_s_per_call=0.00015,
    pair_s_per_prompt=0.000333,
    absorb_s_per_answer=4.6e-05,
    base_mib=177.0,
    memory_bytes_per_prompt=457.0,
    table_bytes_per_completion=157.0,
    journal_bytes_per_answer=384.0,
)
"""As benchmarks/results/scale.json has them, of the machine that is named there."""


class Plan(NamedTuple):
    """The settings of a run that its cost depends on.

    Args:
        completions: For each prompt.
        calls: Of the judge, for each prompt.
        samples: True if completions are sampled; else they are imported.
        workers: Processes that work on shards; 1 is one process.
        in_flight: Calls in flight, over all workers.
        call_s: Latency of a call, of a sample or of a judgment [s].
        answer_price: Of a sampled completion.
        call_price: Of a call of the judge.
        shard_prompts: Prompts of a part of a table.
    """

    completions: int
    calls: float
    samples: bool
    workers: int
    in_flight: int
    call_s: float
    answer_price: float
    call_price: float
    shard_prompts: int = 256


class Machine(NamedTuple):
    """The machine with the command: its memory [GiB], disk [GiB], files that a folder may have."""

    memory_gib: float
    disk_gib: float
    files: float = 1e6
    merge_s: float = DAY_S
    """The longest merge that anybody waits for [s]."""


class ScaleCost(NamedTuple):
    """The cost of a run of `prompts`. Seconds are of the clock, memory of the largest process."""

    prompts: float
    calls: float
    money: float
    call_s: float
    compute_s: float
    merge_s: float
    memory_bytes: float
    journal_bytes: float
    disk_bytes: float
    parts: float

    @property
    def seconds(self) -> float:
        """The whole time: calls are waited for while others are worked on, the merge is not."""
        return max(self.call_s, self.compute_s) + self.merge_s


class Limit(NamedTuple):
    """The number of prompts beyond which something ends, and what it is."""

    prompts: float
    what: str
    remedy: str


def cost_of(prompts: float, plan: Plan, rates: Rates) -> ScaleCost:
    """The cost of a run of so many prompts."""
    completions = prompts * plan.completions
    judged = prompts * plan.calls
    answers = judged + (completions if plan.samples else 0.0)
    compute_s = (
        completions * rates.import_s_per_completion
        + answers * rates.rank_s_per_call
        + prompts * rates.pair_s_per_prompt
    )
    journal = answers * rates.journal_bytes_per_answer
    return ScaleCost(
        prompts=prompts,
        calls=answers,
        money=judged * plan.call_price + (answers - judged) * plan.answer_price,
        call_s=answers * plan.call_s / plan.in_flight,
        compute_s=compute_s / plan.workers,
        merge_s=answers * rates.absorb_s_per_answer if plan.workers > 1 else 0.0,
        memory_bytes=rates.base_mib * 2**20 + prompts * rates.memory_bytes_per_prompt,
        journal_bytes=journal,
        disk_bytes=completions * rates.table_bytes_per_completion + journal,
        parts=prompts / plan.shard_prompts,
    )


def limits_of(plan: Plan, rates: Rates, machine: Machine) -> list[Limit]:
    """Return what ends as a run grows, the first one first."""
    return sorted(_limits(plan, rates, machine))


def _limits(plan: Plan, rates: Rates, machine: Machine) -> Iterator[Limit]:
    one = cost_of(1.0, plan, rates)
    memory = machine.memory_gib * GIB
    if rates.memory_bytes_per_prompt > 0:
        yield Limit(
            (memory - rates.base_mib * 2**20) / rates.memory_bytes_per_prompt,
            f"memory of the command: ids of all prompts, beyond {machine.memory_gib:g} GiB",
            "split the prompts (sample.part) into several runs",
        )
    if one.journal_bytes > 0:
        yield Limit(
            memory / one.journal_bytes,
            f"the journal, one SQLite file with hashes as keys, beyond {machine.memory_gib:g} GiB "
            "of memory: from there on every answer waits for the disk to seek",
            "split the prompts (sample.part) into several runs, or give the machine more memory",
        )
    if one.disk_bytes > 0:
        # While parts are taken over, what they hold is there twice.
        twice = one.journal_bytes if plan.workers > 1 else 0.0
        yield Limit(
            machine.disk_gib * GIB / (one.disk_bytes + twice),
            f"disk, beyond {machine.disk_gib:g} GiB",
            "a larger volume",
        )
    if one.merge_s > 0:
        yield Limit(
            machine.merge_s / one.merge_s,
            f"the merge: one process takes over all answers, longer than {machine.merge_s:,.0f} s",
            "split the prompts (sample.part) into several runs",
        )
    yield Limit(
        machine.files * plan.shard_prompts,
        f"parts of a table, beyond {machine.files:,.0f} files of a folder",
        "a larger sample.shard_prompts",
    )
