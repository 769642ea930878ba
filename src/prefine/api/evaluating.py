"""A model against a baseline, on objects in memory; the same code that the stage calls."""

from collections.abc import Iterable
from pathlib import Path

from prefine.api.arguments import explained
from prefine.api.components import JudgeLike, Model, answer_log, judge_of, sampler_of, validated
from prefine.api.progress import followed
from prefine.api.reading import PromptLike, prompts_of, warn
from prefine.calls.engine import CallEngine
from prefine.config.sections import Decoding, EvaluateConfig
from prefine.models.capabilities import check_model
from prefine.report.data import Evaluation
from prefine.stages.head_to_head import according_to, answer_both, before_and_after
from prefine.stages.stage_run import Progress


@explained
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
    progress: Progress | bool = True,
) -> Evaluation:
    """Let a model and a baseline answer every prompt once, and judge the answers in both orders.

    Args:
        model: The model in question; what `train` returned will do.
        prompts: The prompts to answer, better none that the model was trained on; repeated ones
            count once.
        baseline: The model to compare with.
        judge: Compares the answers.
        temperature: 0 is greedy.
        max_new_tokens: The longest answer [tokens].
        seed: For drawing and the bootstrap; the two models draw from different streams.
        bootstrap_samples: Resamples of the prompts for the intervals.
        max_failed_fraction: Stop when a larger share of the answers, or of the judgments, fails.
        journal: A file that keeps every answer: called again, nothing that was answered is asked
            for again.
        progress: False shows no progress; an object receives it instead.

    Returns: Wins, ties and losses according to the judge, and metrics with their intervals.

    Raises:
        ConfigError: A setting is wrong.
        DataError: A model or the judge cannot work on a prompt.
        BackendError: A model cannot be loaded, or a server will not answer.
        LimitError: Too many answers or judgments failed.
    """
    settings = validated(
        EvaluateConfig,
        {
            "seed": seed,
            "bootstrap_samples": bootstrap_samples,
            "max_failed_fraction": max_failed_fraction,
        },
        where="evaluate",
    )
    asked = prompts_of(prompts)
    name, comparing = judge_of(judge)
    samplers = [sampler_of(baseline, where="baseline"), sampler_of(model, where="model")]
    for backend in (comparing, *samplers):
        check_model(backend)
    drawing = {"temperature": temperature, "max_new_tokens": max_new_tokens, "seed": seed}
    decoding = validated(Decoding, drawing, where="evaluate")
    for sampler in samplers:
        for prompt in asked:
            sampler.check_prompt(prompt, decoding, where="evaluate")
    with answer_log(journal) as log, followed(progress) as shown:
        engine = CallEngine(log, should_stop=lambda: shown.stopping)
        answered = answer_both(asked, samplers, decoding, settings, engine, shown)
        result = according_to(comparing, name, answered, engine, settings)
    warn([*samplers[0].notes, *samplers[1].notes, *comparing.notes, *result.notes])
    return Evaluation(
        policy=samplers[1].label,
        baseline=samplers[0].label,
        contests=(result.head_to_head,),
        constraints=(),
        metrics=(*result.metrics, *before_and_after(answered, settings)),
    )
