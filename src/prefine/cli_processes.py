"""Commands that a launcher has started several times: training is shared, all else is refused; one process speaks."""

import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, NoReturn

import typer

from prefine.errors import ConfigError, EndedElsewhere, Interrupted, PrefineError

if TYPE_CHECKING:
    from prefine.config import RunConfig

_SHARDED = {
    "ACCELERATE_USE_FSDP": "FSDP",
    "ACCELERATE_USE_DEEPSPEED": "DeepSpeed",
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM",
}


def launched() -> bool:
    """Whether this is one of several processes that `accelerate launch`, `torchrun` or the like has started."""
    return int(os.environ.get("WORLD_SIZE") or 1) > 1 and "RANK" in os.environ


def refuse_several(command: str) -> None:
    """Nothing, if this process is alone.

    Raises:
        ConfigError: It is the first of several.
        typer.Exit: It is another of them.
    """
    if launched():
        _refuse(
            f"`{command}` works in one process, and a launcher has started {os.environ['WORLD_SIZE']}; only "
            "`prefine train` is shared among processes: run the stages before and after it, or `prefine run` once the "
            "model is trained, without the launcher"
        )


def train_together(load: Callable[[], "RunConfig"], lead: Callable[["RunConfig"], None]) -> None:
    """Train in this process and the others; each ends when all do, and one says why.

    Args:
        load: Reads the configuration.
        lead: The command as the first process does it.

    Raises:
        PrefineError: This process failed, and is the one to say so.
        typer.Exit: Another one has said it.
    """
    _refuse_sharded()
    from prefine.training import processes

    processes.join()
    code = PrefineError.exit_code
    try:
        processes.take_device(int(os.environ.get("LOCAL_RANK") or 0))
        config = load()
        if processes.is_main():
            lead(config)
        else:
            _follow(config)
        processes.end(0)
    except EndedElsewhere as other:
        processes.wait_until_gone()
        raise typer.Exit(other.code) from other
    except BaseException as error:
        if isinstance(error, PrefineError):
            code = error.exit_code
        elif isinstance(error, KeyboardInterrupt):
            code = Interrupted.exit_code
        if not processes.end(code):
            raise typer.Exit(code) from error
        raise


def leave(code: int) -> None:
    """End now, if this process has met others; what it has written is closed.

    Torch's threads for them can abort a process that ends in the usual way, after its work is done.
    """
    met = sys.modules.get("prefine.training.processes")
    if met is not None and met.together():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _follow(config: "RunConfig") -> None:
    from prefine.progress import RichProgress
    from prefine.stages.train import follow

    with RichProgress(quiet=True) as progress:
        follow(config, progress)


def _refuse_sharded() -> None:
    for variable, name in _SHARDED.items():
        if os.environ.get(variable, "").lower() == "true":
            _refuse(
                f"{name} is not supported: every process holds the whole model. Launch with "
                "configs/accelerate/ddp.yaml; for a model that does not fit one GPU use train.adapter with "
                "train.dtype: bfloat16, which keeps the frozen weights in half the memory and gives only the adapter "
                "gradients and optimizer states"
            )


def _refuse(why: str) -> NoReturn:
    """End all processes, before they have met, with one message."""
    if os.environ["RANK"] != "0":
        raise typer.Exit(ConfigError.exit_code)
    raise ConfigError(why)
