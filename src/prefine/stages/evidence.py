"""The configured metrics: what each needs, whether the run has it, and their figures."""

from collections.abc import Callable, Collection, Iterator, Mapping
from itertools import chain
from typing import Any, NamedTuple

from prefine.config.sections import RunConfig
from prefine.errors import ConfigError
from prefine.metrics.protocol import Evidence, Metric, Need, needs_of
from prefine.pairing.protocol import selector_facts
from prefine.records import MetricValue, Prompt
from prefine.run.view import RunView


class NamedMetric(NamedTuple):
    """A configured metric with its options filled in; `where` is its place, for messages."""

    where: str
    measure: Metric
    needs: frozenset[Need]


class _Source(NamedTuple):
    """A test of a configuration for one kind of evidence, and how to get it."""

    given: Callable[[RunConfig], bool]
    remedy: str


def _holds_out(config: RunConfig, makes: str) -> bool:
    if not config.pair.held_out_prompts:
        return False
    if config.items_entries:
        return makes in config.items_entries
    selector = config.pair.selector.lookup("selector", where="pair.selector")
    found = selector_facts(selector).makes
    return makes == ("pairs" if found == "joint" else found)


def _judged(config: RunConfig) -> bool:
    return config.evaluate.judge is not None or config.rank is not None


_ENTRY = "start from prompts or completions"
_SOURCES: Mapping[Need, _Source] = {
    "completions": _Source(lambda config: not config.items_entries, _ENTRY),
    "judgments": _Source(
        lambda config: not config.items_entries, f"{_ENTRY}, with a judge that duels"
    ),
    "answers": _Source(lambda config: config.evaluate.prompts is not None, "give evaluate.prompts"),
    "verdicts": _Source(
        lambda config: config.evaluate.prompts is not None and _judged(config),
        "give evaluate.prompts and evaluate.judge",
    ),
    "gold": _Source(
        lambda config: config.evaluate.prompts is not None and config.evaluate.gold is not None,
        "give evaluate.prompts and evaluate.gold",
    ),
    "training_prompts": _Source(lambda config: True, "run prefine pair"),
    "held_out_pairs": _Source(
        lambda config: _holds_out(config, "pairs"), "give pair.held_out_prompts, such as 100"
    ),
    "held_out_lists": _Source(
        lambda config: _holds_out(config, "lists"),
        "give pair.selector: {name: lists} and pair.held_out_prompts, such as 100",
    ),
    "evaluation_log": _Source(
        lambda config: config.train.evaluate_every is not None,
        "give train.evaluate_every, such as 20",
    ),
}


_OF_LIKELIHOODS = ("held_out_pairs", "held_out_lists", "evaluation_log")


def configured_metrics(config: RunConfig) -> list[NamedMetric]:
    """The metrics of `evaluate.metrics`.

    Raises:
        ConfigError: A name or an option is wrong, or a run of this configuration will not have
            what a metric needs.
    """
    found = []
    for index, component in enumerate(config.evaluate.metrics):
        where = f"evaluate.metrics.{index}"
        bound = component.resolve("metric", where=where)
        needs = needs_of(bound.func, where=f"{where}.name")
        for need in sorted(needs):
            if config.train.reward is not None and need in _OF_LIKELIHOODS:
                raise ConfigError(
                    f"{where}.name: {component.name!r} reads log-probabilities of a policy, and "
                    "train.reward trains a reward model, which has none; leave the metric out"
                )
            if not _SOURCES[need].given(config):
                raise _missing(where, component.name, need)
        found.append(NamedMetric(f"{where}: {component.name!r}", bound, needs))
    return found


def left_by_stages(run: RunView, metrics: Collection[NamedMetric]) -> dict[Need, object]:
    """Read what these metrics need of what earlier stages have left.

    Raises:
        ConfigError: The folder does not have it.
    """
    readers: Mapping[Need, Callable[[], object]] = {
        "completions": lambda: list(run.completions()),
        "judgments": lambda: list(run.judgments()),
        "training_prompts": lambda: _training_prompts(run),
        "evaluation_log": lambda: run.log("eval_log.jsonl"),
    }
    found: dict[Need, object] = {}
    for one in metrics:
        for need in sorted(one.needs & readers.keys() - found.keys()):
            found[need] = readers[need]()
            if not found[need]:
                raise ConfigError(
                    f"{one.where} needs {_words(need)}, and {run.path} has none; "
                    f"{_SOURCES[need].remedy}, or leave the metric out (a folder whose ranking an "
                    "older version has finished has no judgments)"
                )
    return found


def figures(
    config: RunConfig, metrics: Collection[NamedMetric], parts: Mapping[Need, object]
) -> Iterator[MetricValue]:
    """The figures of the metrics, in their order.

    Args:
        config: Has the settings of the bootstrap.
        metrics: The metrics.
        parts: The evidence.

    Raises:
        ConfigError: A figure does not exist on this run.
    """
    settings = config.evaluate
    values: dict[str, Any] = {need: value for need, value in parts.items() if value}
    evidence = Evidence(**values, samples=settings.bootstrap_samples, seed=settings.seed)
    for one in metrics:
        try:
            if missing := sorted(one.needs - values.keys()):
                raise ValueError(f"it needs {_words(missing[0])}, and there is none")
            yield from one.measure(evidence)
        except ValueError as error:
            raise ConfigError(
                f"{one.where} cannot be computed on this run: {error}; leave the metric out"
            ) from error


def _training_prompts(run: RunView) -> list[Prompt]:
    """The distinct prompts of the items that are trained on."""
    prompts = chain(
        (pair.prompt for pair in run.pairs()),
        (one.prompt for one in run.lists()),
        (labelled.prompt for labelled in run.labels()),
    )
    return list({prompt.id: prompt for prompt in prompts}.values())


def _missing(where: str, name: str, need: Need) -> ConfigError:
    return ConfigError(
        f"{where}.name: {name!r} needs {_words(need)}, which this run will not have; "
        f"{_SOURCES[need].remedy}, or leave the metric out"
    )


def _words(need: Need) -> str:
    return need.replace("_", " ")
