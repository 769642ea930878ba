"""Is one model better than another, in whose eyes, and by how much; the same code that the stage calls."""

from collections.abc import Iterable
from pathlib import Path

from prefine.api.components import JudgeLike, Model, judge_of, sampler_of, validated
from prefine.api.journals import answer_log
from prefine.api.reading import PromptLike, prompts_of, tell
from prefine.calls.engine import CallEngine
from prefine.config.sections import Decoding, EvaluateConfig
from prefine.models.protocol import Sampler
from prefine.records import Completion, Prompt
from prefine.report.data import Evaluation
from prefine.stages.head_to_head import according_to, answered_by_both, lengths
from prefine.stages.sampling import sample_shard
from prefine.stages.stage_run import Progress, Silent, check_model, chunks

_SHARD = 256


def evaluate(
    model: Model,
    prompts: Iterable[PromptLike],
    *,
    baseline: Model,
    judge: JudgeLike,
    temperature: float = 0.9,
    max_new_tokens: int = 512,
    seed: int = 0,
    bootstrap_samples: int = 2000,
    max_failed_fraction: float = 0.02,
    journal: str | Path | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """The win rate of a model against a baseline, each answering every prompt once, judged in both orders.

    Args:
        model: The model in question; what `train` returned will do.
        prompts: What to answer; better none that it was trained on. Repeated ones count once.
        baseline: What it is compared with.
        judge: Who compares.
        temperature: 0 is greedy.
        max_new_tokens: The longest answer [tokens].
        seed: Of the drawing and of the bootstrap; the two models draw from different streams.
        bootstrap_samples: For the uncertainty of what is drawn anew from the prompts.
        max_failed_fraction: Stop when a larger share of the answers, or of the judgments, fails.
        journal: A file that keeps every answer: called again, nothing that was answered is asked
            for again.
        progress: Where to say how far it is.
    Returns: The contest with wins, ties and losses, and metrics with their intervals.

    Raises:
        ConfigError: A setting is wrong.
        DataError: A model or the judge cannot work on a prompt.
        BackendError: A model cannot be loaded, or a server will not answer.
        LimitError: Too many answers or judgments failed.
    """
    given = {
        "seed": seed,
        "bootstrap_samples": bootstrap_samples,
        "max_failed_fraction": max_failed_fraction,
    }
    settings = validated(EvaluateConfig, given, where="evaluate")
    shown = progress or Silent()
    asked = prompts_of(prompts)
    name, eyes = judge_of(judge)
    samplers = [sampler_of(baseline, where="baseline"), sampler_of(model, where="model")]
    for backend in (eyes, *samplers):
        check_model(backend)
    shown.start("evaluate", 2 * len(asked), "answers")
    with answer_log(journal) as log:
        engine = CallEngine(log, should_stop=lambda: shown.stopping)
        before, after = (
            _answers(
                engine,
                sampler,
                asked,
                validated(
                    Decoding,
                    {
                        "temperature": temperature,
                        "max_new_tokens": max_new_tokens,
                        "seed": seed + offset,
                    },
                    where="evaluate",
                ),
                shown,
            )
            for offset, sampler in enumerate(samplers)
        )
        engine.check_failures(2 * len(asked), max_failed_fraction, where="evaluate")
        answered = answered_by_both(asked, before, after, engine)
        seen = according_to(eyes, name, answered, engine, settings)
    tell([*samplers[0].notes, *samplers[1].notes, *eyes.notes, *seen.failures.notes()])
    return Evaluation(
        policy=samplers[1].label,
        baseline=samplers[0].label,
        contests=(seen.head_to_head,),
        constraints=(),
        metrics=(*seen.facts, *lengths(answered, settings)),
    )


def _answers(
    engine: CallEngine, sampler: Sampler, asked: list[Prompt], decoding: Decoding, shown: Progress
) -> dict[str, Completion]:
    """One answer to each prompt, by prompt id."""
    drawn: dict[str, Completion] = {}
    for prompt in asked:
        sampler.check_prompt(prompt, decoding, where="evaluate")
    for shard in chunks(asked, _SHARD):
        found = sample_shard(engine, sampler, shard, 1, decoding, group=1)
        drawn |= {id_: answers[0] for id_, answers in found.items() if answers}
        shown.advance(len(shard))
    return drawn
