"""Commands started several times by a launcher: training is shared, others are refused.

One process prints.
"""

import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, NoReturn

import typer

from prefine.errors import ConfigError, EndedElsewhere, Interrupted, PrefineError

if TYPE_CHECKING:
    from prefine.config.sections import RunConfig

_OTHERS = {
    "ACCELERATE_USE_DEEPSPEED": "DeepSpeed",
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM",
}


def launched() -> bool:
    """Return True in one of several processes of `accelerate launch`, `torchrun` or the like."""
    return int(os.environ.get("WORLD_SIZE") or 1) > 1 and "RANK" in os.environ


def refuse_several(command: str) -> None:
    """Raise unless this process is alone.

    Raises:
        ConfigError: It is the first of several.
        typer.Exit: It is another of them.
    """
    if launched():
        _refuse(
            f"`{command}` works in one process, and a launcher has started "
            f"{os.environ['WORLD_SIZE']}; only "
            "`prefine train` is shared among processes: run the stages before and after it, or "
            "`prefine run` once the "
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
    reshard = _fsdp()
    from prefine.training.distributed import processes

    processes.join(reshard)
    code = PrefineError.exit_code
    try:
        processes.take_device(int(os.environ.get("LOCAL_RANK") or 0))
        config = load()
        if processes.is_main():
            lead(config)
        else:
            _follow(config)
        processes.report_exit(0)
    except EndedElsewhere as other:
        processes.wait_until_gone()
        raise typer.Exit(other.code) from other
    except BaseException as error:
        if isinstance(error, PrefineError):
            code = error.exit_code
        elif isinstance(error, KeyboardInterrupt):
            code = Interrupted.exit_code
        if not processes.report_exit(code):
            raise typer.Exit(code) from error
        raise


def leave(code: int) -> None:
    """Exit at once if this process has joined others; what it has written is closed.

    Torch's threads for them can abort a process that ends in the usual way, after its work is done.
    """
    met = sys.modules.get("prefine.training.distributed.processes")
    if met is not None and met.together():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _follow(config: "RunConfig") -> None:
    from prefine.api.progress import ShownProgress
    from prefine.stages.train import follow

    with ShownProgress(quiet=True) as progress:
        follow(config, progress)


def refuse_others() -> None:
    """Raise if a launcher asks for a way to divide a model that is not ours, even of one process.

    Raises:
        ConfigError: It does, and this process is the first or the only one.
        typer.Exit: It does, and this process is another one.
    """
    for variable, name in _OTHERS.items():
        if _asked(variable):
            _refuse(
                f"{name} is not supported: it would compute gradients, clip them and step in its "
                "own engine, and the step's exact gradient, the budget and checkpoints that any "
                "number of processes can resume are computed here. Launch with "
                "configs/accelerate/fsdp2.yaml, which divides layers, gradients and optimizer "
                "states among the processes as ZeRO-3 does, or with configs/accelerate/ddp.yaml, "
                "where each has the whole model"
            )


def _fsdp() -> bool | None:
    """Return None if the launcher does not ask for FSDP, else its `reshard_after_forward`."""
    if not _asked("ACCELERATE_USE_FSDP"):
        return None
    if os.environ.get("FSDP_VERSION") != "2":
        _refuse(
            "FSDP is supported in its version 2 only; write `fsdp_version: 2` as "
            "configs/accelerate/fsdp2.yaml does"
        )
    if _asked("FSDP_OFFLOAD_PARAMS"):
        _refuse(
            "fsdp_offload_params is not supported: weights stay on the GPUs; take it out of the "
            "launcher's file"
        )
    if _asked("FSDP_ACTIVATION_CHECKPOINTING"):
        _refuse(
            "fsdp_activation_checkpointing is not read; take it out of the launcher's file and set "
            "train.gradient_checkpointing: true"
        )
    return os.environ.get("FSDP_RESHARD_AFTER_FORWARD", "true").lower() != "false"


def _asked(variable: str) -> bool:
    return os.environ.get(variable, "").lower() in {"true", "1", "yes"}


def _refuse(why: str) -> NoReturn:
    """End all processes, before they have met, with one message."""
    if (os.environ.get("RANK") or "0") != "0":
        raise typer.Exit(ConfigError.exit_code)
    raise ConfigError(why)
