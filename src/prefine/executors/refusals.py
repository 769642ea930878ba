"""Configurations that workers on other machines cannot have, found before anything is done."""

from prefine.config.given import is_given
from prefine.config.named import components
from prefine.config.sections import RunConfig
from prefine.errors import ConfigError
from prefine.models.protocol import Launches

_NOT_SPREAD = ("bridge.", "train.")
"""Sections whose models are asked by the process of the command, whatever the executor."""


def refuse(config: RunConfig, stage: str | None = None) -> None:
    """Check that workers can do what a configuration says.

    Args:
        config: The configuration.
        stage: The stage that is to be run; None for all of them.

    Raises:
        ConfigError: They could not import a component, would start servers or hand over small
            batches each, or would journal answers that do not reach the URL of the run.
    """
    if config.storage is not None and config.storage.url is not None:
        raise ConfigError(
            "executor: workers keep their answers in the run folder while they work, and a run at "
            "a URL must have each answer there at once; use executor: local, or a run_dir on a "
            "file system that all nodes mount"
        )
    _refuse_given(config)
    _refuse_models(config, stage)


def _refuse_given(config: RunConfig) -> None:
    """Check that other processes can import every component.

    Raises:
        ConfigError: One is a function or an object that only this process has.
    """
    for where, kind, component in components(config):
        if is_given(component.name):
            raise ConfigError(
                f"{where}: a {kind} that was given as an object or a function of this process, "
                "which other workers cannot import; put it into a module and name it "
                "my_module:thing, or use executor: local"
            )


def _refuse_models(config: RunConfig, stage: str | None) -> None:
    """Check that no worker would start servers, or hand over batch files.

    Args:
        config: The configuration.
        stage: The stage that is to be run; None for all of them.

    Raises:
        ConfigError: A model that workers would ask is served by prefine, or asked in batch files.
    """
    for where, kind, component in components(config):
        if kind != "backend" or where.startswith(_NOT_SPREAD) or not _asks(config, stage, where):
            continue
        backend = component.lookup("backend", where=where)
        if Launches in getattr(backend, "capabilities", ()):
            raise ConfigError(
                f"{where}: workers of a cluster would each start servers of {component.name!r}, "
                "and again for every task; use executor: local for what asks this model, or start "
                "its server yourself and write {name: openai, base_url: …}"
            )
        if component.options.get("calls") == "batch":
            raise ConfigError(
                f"{where}.calls: workers of a cluster would hand over a batch file for each of "
                "their tasks, many small ones that wait for up to a day each, and not one of all "
                "calls; use executor: local for what asks this model, or calls: now"
            )


def _asks(config: RunConfig, stage: str | None, where: str) -> bool:
    """Return True if a stage may ask the model at a config path."""
    own_sampler = config.sample is not None and config.sample.model is not None
    asked: dict[str, tuple[str, ...]] = {
        "sample": ("sample.",) if own_sampler else ("policy",),
        "rank": ("rank.",),
        "pair": (),
        "evaluate": ("policy", "evaluate.", *(("rank.",) if config.evaluate.judge is None else ())),
    }
    return stage is None or where.startswith(asked[stage])
