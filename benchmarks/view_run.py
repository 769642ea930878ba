"""A run folder of any size for `benchmarks/view.py`, by prefine's own records and writer."""

import json
import random
from pathlib import Path
from typing import Any, NamedTuple

from prefine.config.sections import RunConfig
from prefine.records import (
    SCHEMA_VERSION,
    Comparison,
    Completion,
    Counts,
    DuelRecord,
    Judgment,
    Manifest,
    Message,
    PreferencePair,
    Prompt,
    Ranking,
    Usage,
    content_hash,
)
from prefine.report.data import OUTCOMES, AnswerExample
from prefine.run.item_rows import pair_row
from prefine.run.rows import completion_rows, judgment_row
from prefine.run.tables import part_path, shard_key, write_part
from prefine.stages.shards import SHARD

RARE = "xylograph"
"""A word in one answer to every thousandth prompt, and nowhere else."""
NOWHERE = "quokkaless"
_LETTERS = "bacedifoguhajekilomunaperisotuvawexiyozu"
_SYLLABLES = [_LETTERS[i : i + 2] for i in range(0, len(_LETTERS), 2)]
_SOURCES = ("chat", "code", "maths", "stories")
_FINISHED = ("stop",) * 9 + ("length",)
_STAGES = ("sample", "rank", "pair", "train", "evaluate")
_FIRST_SLOT = 0.08
"""By how much the judge likes the first slot."""


class Size(NamedTuple):
    """How much there is in a run."""

    prompts: int = 100_000
    completions: int = 8
    characters: int = 400
    evaluated: int = 5_000


def make(folder: Path, size: Size) -> None:
    """Write the folder; the same size gives the same rows."""
    folder.mkdir(parents=True)
    words = _vocabulary()
    for number, start in enumerate(range(0, size.prompts, SHARD)):
        rng = random.Random(number)
        count = min(SHARD, size.prompts - start)
        _write_shard(folder, number, start, count, size, words, rng)
    _evaluated(folder, size, words)
    config = RunConfig.model_validate(
        {
            "run_dir": str(folder),
            "policy": {"name": "scripted", "replies": ["a"]},
            "prompts": {"name": "file", "path": "prompts.jsonl"},
            "sample": {"completions_per_prompt": size.completions},
            "rank": {"judge": {"name": "playground"}},
        }
    )
    value = {"schema_version": SCHEMA_VERSION, "config": config.resolved()}
    (folder / "config.json").write_text(json.dumps(value), encoding="utf-8")
    stages = {name: _manifest(name, size) for name in _STAGES}
    value = {"schema_version": SCHEMA_VERSION, "stages": stages}
    (folder / "manifest.json").write_text(json.dumps(value), encoding="utf-8")


def _vocabulary() -> list[str]:
    rng = random.Random(0)
    return ["".join(rng.choices(_SYLLABLES, k=rng.randint(1, 4))) for _ in range(20_000)]


def _text(characters: int, words: list[str], rng: random.Random) -> str:
    chosen = rng.choices(words, k=characters // 5)
    return " ".join(chosen)[:characters].strip()


def _write_shard(
    folder: Path,
    number: int,
    start: int,
    count: int,
    size: Size,
    words: list[str],
    rng: random.Random,
) -> None:
    groups, judged, ranked, paired = [], [], [], []
    for index in range(start, start + count):
        prompt = Prompt.from_text(
            f"{index}: {_text(90, words, rng)}?",
            source=f"prompts.jsonl:{index + 1}",
            metadata={"source": _SOURCES[index % len(_SOURCES)]},
        )
        answers = [_answer(prompt, i, size, words, rng) for i in range(size.completions)]
        if index % 1000 == 0:
            changed = Message(role="assistant", content=f"{answers[0].text} {RARE}")
            answers[0] = answers[0].model_copy(update={"message": changed})
        groups.append((prompt, answers))
        quality = {one.id: rng.gauss(0, 1) for one in answers}
        judgments = _judgments(prompt, answers, quality, rng)
        ranking = _ranking(prompt, answers, quality, judgments)
        judged += [judgment_row(one, prompt.id) for one in judgments]
        ranked.append(ranking.model_dump(mode="json"))
        best = max(answers, key=lambda one: quality[one.id])
        worst = min(answers, key=lambda one: quality[one.id])
        pair = PreferencePair(
            prompt=prompt,
            chosen=best,
            rejected=worst,
            p_chosen=0.9,
            score_gap=quality[best.id] - quality[worst.id],
        )
        paired.append(pair_row(pair))
    tables: dict[str, list[Any]] = {
        "completions": completion_rows(groups),
        "judgments": judged,
        "rankings": ranked,
        "pairs": paired,
    }
    for name, rows in tables.items():
        (folder / name).mkdir(exist_ok=True)
        write_part(part_path(folder / name, number), name, rows, key=shard_key(name, number))


def _answer(
    prompt: Prompt, index: int, size: Size, words: list[str], rng: random.Random
) -> Completion:
    return Completion(
        id=content_hash(prompt.id, index),
        prompt_id=prompt.id,
        sample_index=index,
        message=Message(role="assistant", content=_text(size.characters, words, rng)),
        model="scripted",
        sampling={"temperature": 1.0},
        finish_reason=rng.choice(_FINISHED),
    )


def _judgments(
    prompt: Prompt, answers: list[Completion], quality: dict[str, float], rng: random.Random
) -> list[Judgment]:
    """Each answer against the best so far, in both orders."""
    found = []
    best = answers[0]
    for other in answers[1:]:
        for first, second in ((best, other), (other, best)):
            gap = quality[first.id] - quality[second.id] + _FIRST_SLOT + rng.gauss(0, 0.3)
            found.append(
                Judgment(
                    comparison=Comparison(prompt_id=prompt.id, first=first.id, second=second.id),
                    judge="judge",
                    p_first=1.0 if gap > 0 else 0.0,
                    raw_text=f"{'The first' if gap > 0 else 'The second'} says more of what counts",
                )
            )
        best = max(best, other, key=lambda one: quality[one.id])
    return found


def _ranking(
    prompt: Prompt,
    answers: list[Completion],
    quality: dict[str, float],
    judgments: list[Judgment],
) -> Ranking:
    order = sorted(quality, key=lambda id_: -quality[id_])
    return Ranking(
        prompt_id=prompt.id,
        strategy="iterative",
        completions=tuple(one.id for one in answers),
        champion=order[0],
        worst=order[-1],
        order=tuple(order),
        scores=tuple(quality[one.id] for one in answers),
        duels=tuple(
            DuelRecord(
                first=one.comparison.first, second=one.comparison.second, p_first=one.p_first
            )
            for one in judgments
        ),
        calls=len(judgments),
    )


def _evaluated(folder: Path, size: Size, words: list[str]) -> None:
    rng = random.Random(-1)
    path = folder / OUTCOMES
    path.parent.mkdir()
    with path.open("w", encoding="utf-8") as file:
        for index in range(size.evaluated):
            prompt = Prompt.from_text(f"evaluation {index}: {_text(90, words, rng)}?")
            example = AnswerExample(
                prompt=prompt.text,
                prompt_id=prompt.id,
                before=_text(size.characters, words, rng),
                after=_text(size.characters, words, rng),
                p_after=rng.choice((0.0, 0.5, 1.0)),
            )
            file.write(example.model_dump_json() + "\n")


def _manifest(stage: str, size: Size) -> dict[str, Any]:
    return Manifest(
        stage=stage,
        complete=True,
        config={},
        code_version="0",
        counts=Counts(taken=size.prompts, produced=size.prompts),
        usage=Usage(calls=size.prompts),
    ).model_dump(mode="json")
