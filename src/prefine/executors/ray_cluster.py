"""The executor `ray`: shards as tasks of actors, on one machine or on the nodes of a cluster."""

import atexit
import importlib
import importlib.util
import logging
import math
import os
import secrets
import signal
import socket
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import Field

from prefine.calls.counts import CallCounts
from prefine.config.sections import RunConfig
from prefine.errors import BackendError, ConfigError
from prefine.executors.protocol import StageWork
from prefine.executors.ray_pool import RayPool, Resources
from prefine.executors.refusals import refuse
from prefine.executors.spreading import work_on
from prefine.executors.worker import Orders

_OBJECT_STORE = 80 * 2**20
"""Bytes of shared memory on one machine: tasks and their results are small. Ray takes no less."""
_SOCKET_BYTES = 107
"""The longest path of a Unix socket; Ray's, below its folder, take 64 of them."""
_SOCKET_BELOW = 64
_KNOCK_S = 10.0


class RayExecutor:
    """Works in the actors of a Ray cluster, each with its part of the journal.

    Args:
        address: null starts Ray on this machine for the time of the command; "auto" is the
            cluster that this machine is in, and else `HOST:PORT` or `ray://HOST:PORT`.
        workers: Actors at work; "auto" is as many as the cluster has room for when a stage begins.
        num_cpus: CPUs that Ray sets aside for each worker.
        num_gpus: GPUs of each worker, for models that run in its process.
        shards_per_task: Shards that a worker takes at a time. Calls of all of them are in flight
            beside each other, so more keep a server busier and less of a cluster at the end.
    """

    def __init__(
        self,
        *,
        address: str | None = None,
        workers: Annotated[int, Field(gt=0)] | Literal["auto"] = "auto",
        num_cpus: Annotated[float, Field(ge=0)] = 1.0,
        num_gpus: Annotated[float, Field(ge=0)] = 0.0,
        shards_per_task: Annotated[int, Field(gt=0)] = 1,
    ) -> None:
        self._address = address
        self._workers = workers
        self._each = Resources(num_cpus, num_gpus)
        self._shards_per_task = shards_per_task
        self._open = ExitStack()
        self._ray: Any = None

    def check(self, config: RunConfig) -> None:
        """Raise ConfigError without Ray, or if workers cannot have a component."""
        self._check(config)

    def _check(self, config: RunConfig, stage: str | None = None) -> None:
        if importlib.util.find_spec("ray") is None:
            raise ConfigError(
                "executor: ray needs the package 'ray'; install prefine[ray], on every node"
            )
        refuse(config, stage)

    def run(
        self, work: StageWork, shards: Iterable[Any], take: Callable[[Any], None]
    ) -> Sequence[str]:
        """Work on all shards; return notes.

        Raises:
            ConfigError: A node does not see the run folder, or has another version.
            BackendError: No cluster is there, or its workers end again and again.
        """
        self._check(work.config, work.stage)
        ray = self._connected()
        size = self._size(ray)

        def start(orders: Orders, earlier: CallCounts) -> RayPool:
            return RayPool(ray, orders, size=size, each=self._each, earlier=earlier)

        return work_on(work, shards, take, start, workers=size, each=self._shards_per_task)

    def close(self) -> None:
        """Leave the cluster; Ray on this machine ends, if it was started here."""
        self._open.close()
        self._ray = None

    def _connected(self) -> Any:
        """Ray, connected to the cluster until `close`, or until the program ends.

        Raises:
            BackendError: No cluster answers.
        """
        if self._ray is not None:
            return self._ray
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
        # A worker without GPUs of its own sees none only if the user's environment says so.
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        if self._address is None:
            # On loopback, as Ray does by itself where it knows no clusters, and behind a token.
            os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
            os.environ.setdefault("RAY_AUTH_MODE", "token")
            if "RAY_AUTH_TOKEN_PATH" not in os.environ:
                os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
        ray = importlib.import_module("ray")
        importlib.import_module("ray.util.scheduling_strategies")
        if not ray.is_initialized():  # it is, where the program that uses this library has done it
            atexit.register(self.close)
            self._open.callback(atexit.unregister, self.close)
            with _own_signals():
                self._connect(ray)
            self._open.callback(ray.shutdown)
        self._ray = ray
        return ray

    def _connect(self, ray: Any) -> None:
        quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
        if self._address is None:
            ray.init(
                address="local",  # else RAY_ADDRESS names a cluster, or one that runs here is taken
                num_cpus=max(1, math.ceil(self._local_workers() * self._each.num_cpus)),
                include_dashboard=False,
                object_store_memory=_OBJECT_STORE,
                _temp_dir=self._open.enter_context(_short_folder()),
                _node_ip_address="127.0.0.1",
                **quiet,
            )
            return
        try:
            _knock(self._address)
            ray.init(address=self._address, **quiet)
        except (OSError, RuntimeError, ValueError) as error:
            raise BackendError(
                f"executor.address: {self._address!r}: no Ray cluster answers "
                f"({' '.join(str(error).split())[:200]}); start one (docs/clusters.md), or leave "
                "address out to use this machine"
            ) from error

    def _local_workers(self) -> int:
        if self._workers != "auto":
            return self._workers
        return max(1, int((os.cpu_count() or 1) // max(self._each.num_cpus, 1.0)))

    def _size(self, ray: Any) -> int:
        """The number of workers: as configured, or as many as there is room for."""
        if self._workers != "auto":
            return self._workers
        has = ray.cluster_resources()
        room = [
            has.get(name, 0.0) / wanted
            for name, wanted in zip(("CPU", "GPU"), self._each, strict=True)
            if wanted
        ]
        if room and min(room) < 1:
            raise ConfigError(
                f"executor: the cluster has {has.get('CPU', 0):g} CPUs and {has.get('GPU', 0):g} "
                f"GPUs, which is no room for one worker with {self._each.num_cpus:g} CPUs and "
                f"{self._each.num_gpus:g} GPUs; lower executor.num_cpus or num_gpus, or say how "
                "many workers there will be (executor.workers) if nodes start on demand"
            )
        return int(min(room, default=1.0))


def _knock(address: str) -> None:
    """Raise OSError if nobody listens at HOST:PORT; Ray itself tries for minutes."""
    parts = urlsplit(address if "://" in address else f"ray://{address}")
    if parts.hostname and parts.port:
        socket.create_connection((parts.hostname, parts.port), timeout=_KNOCK_S).close()


@contextmanager
def _own_signals() -> Iterator[None]:
    """Keep the handlers of signals that stop a command; Ray puts its own over them."""
    kept = {one: signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            for one, handler in kept.items():
                if handler is not None:  # None: it was not set from Python
                    signal.signal(one, handler)


@contextmanager
def _short_folder() -> Iterator[str]:
    """A folder for Ray's sockets, whose paths may not be long; it is removed at the end.

    Raises:
        ConfigError: The system's folder for temporary files has too long a name.
    """
    with tempfile.TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True) as folder:
        if len(os.fsencode(folder)) + _SOCKET_BELOW > _SOCKET_BYTES:
            raise ConfigError(
                f"executor: {folder} is too long a path for Ray's sockets; set TMPDIR to a folder "
                f"with at most {_SOCKET_BYTES - _SOCKET_BELOW - 12} characters, such as /tmp"
            )
        yield folder
