"""The servers of one model: the options checked, the GPUs divided, the command line of each."""

import hashlib
import shlex
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from prefine.errors import ConfigError, option_path
from prefine.models.served.engines import (
    ENGINES,
    PLACEHOLDERS,
    Engine,
    EngineName,
    Launch,
    PromptsAs,
    Served,
    flag_of,
    missing,
)

GGUF = ".gguf"


@dataclass(eq=False, kw_only=True)
class Serving:
    """A model, its engine and their place; the fields are options of `ServedModel`.

    Raises:
        ConfigError: Options do not go together; no file is looked at.
    """

    path: str
    name: EngineName
    replicas: int | Literal["auto"]
    tensor_parallel: int
    arguments: Mapping[str, Any]
    tuning: Mapping[str, Any]
    command: str | None
    executable: str | None
    prompts_as: PromptsAs
    config_path: str

    def __post_init__(self) -> None:
        self._check_flags()
        where = self._option("command")
        if self.command is None and self.name == "command":
            raise ConfigError(
                f"{where}: engine command needs a command line, such as 'my-server --model {{path}}"
                " --port {port}'"
            )
        if self.command is not None and self.name != "command":
            raise ConfigError(f"{where}: it is for engine command; this is {self.name}")
        if self.command is not None:
            _check_command(self.command, where)

    def at(self, path: str) -> "Serving":
        """Return the same for another folder."""
        return replace(self, path=path, config_path="")

    # --- checks

    def _check_flags(self) -> None:
        for option, named in (("arguments", self.arguments), ("tuning", self.tuning)):
            where = self._option(option)
            if named and self.name == "command":
                raise ConfigError(f"{where}: engine command takes none; write them into command")
            for flag in map(flag_of, named):
                if (setting := self.engine.ours.get(flag)) is not None:
                    remedy = f"set {setting} instead" if setting else "leave it out"
                    raise ConfigError(f"{where}.{flag}: prefine sets this flag itself; {remedy}")
        in_both = {flag_of(one) for one in self.arguments} & {flag_of(one) for one in self.tuning}
        if in_both:
            raise ConfigError(f"{self._option('tuning')}: {min(in_both)} is in arguments, too")

    def check(self) -> None:
        """Check that engine, GPUs and file are there; starts nothing.

        Raises:
            ConfigError: They are not, or do not go together.
        """
        if self.name == "llama_cpp" or self.is_gguf:
            self._check_gguf()
        absent = missing(self.name, self.served)
        if absent is not None:
            option = "executable" if self.executable else "engine"
            option = "command" if self.name == "command" else option
            raise ConfigError(
                f"{self._option(option)}: {self.name}: {absent}; {self.engine.install}"
            )
        if 0 < self.gpus < self.tensor_parallel:
            raise ConfigError(
                f"{self._option('tensor_parallel')}: {self.tensor_parallel} GPUs for a server, and "
                f"this process sees {self.gpus}"
            )

    def _check_gguf(self) -> None:
        where = self._option("path")
        if self.name not in ("llama_cpp", "command"):
            raise ConfigError(f"{where}: {self.path} is a GGUF file; use engine: llama_cpp")
        if not (self.is_gguf and Path(self.path).is_file()):
            raise ConfigError(
                f"{where}: llama_cpp serves a {GGUF} file, and {self.path} is none; convert the "
                "folder with llama.cpp's convert_hf_to_gguf.py, or use another engine"
            )
        if self.prompts_as != "messages":
            raise ConfigError(
                f"{self._option('prompts_as')}: {self.prompts_as} needs the tokenizer of a "
                "folder, and this is a GGUF file; use messages"
            )

    # --- what is there

    @property
    def engine(self) -> Engine:
        """The engine."""
        return ENGINES[self.name]

    @property
    def is_gguf(self) -> bool:
        """True for a file of llama.cpp's, which has no tokenizer and no weights for us."""
        return self.path.endswith(GGUF)

    @cached_property
    def gpus(self) -> int:
        """The number of GPUs that this process sees."""
        if find_spec("torch") is None:
            return 0
        # Here and not above: a server on the CPU without torch is possible.
        from prefine.models.hf.loading import visible_gpus

        return visible_gpus()

    @cached_property
    def count(self) -> int:
        """The number of servers."""
        if self.replicas == "auto":
            return max(1, self.gpus // self.tensor_parallel)
        return self.replicas

    @cached_property
    def gpu_sets(self) -> list[list[int] | None]:
        """The GPUs of each server, by their places; None without any.

        Where there are more servers than sets of GPUs, they share them.
        """
        size = self.tensor_parallel
        sets = [[*range(at, at + size)] for at in range(0, self.gpus - size + 1, size)]
        return [sets[number % len(sets)] if sets else None for number in range(self.count)]

    @cached_property
    def served(self) -> Served:
        """The model as command lines are made of it.

        Raises:
            ConfigError: It is an adapter, and the engine takes none.
        """
        path = str(Path(self.path).resolve()) if Path(self.path).exists() else self.path
        adapter, rank = None, 0
        if Path(path).is_dir():
            # Here and not above: a GGUF file is served without torch.
            from prefine.models.hf.adapters import adapter_settings, base_of

            if (base := base_of(path)) is not None:
                if not self.engine.takes_adapters:
                    raise ConfigError(
                        f"{self._option('path')}: {path} is an adapter, and engine {self.name} "
                        "takes none; save the trained model merged (train.adapter.save: merged)"
                    )
                path, adapter = base, path
                rank = int(adapter_settings(adapter).get("r") or 0)
        return Served(
            path=path,
            name="served" if self.engine.names_models else path,
            adapter=adapter,
            rank=rank,
            tensor_parallel=self.tensor_parallel,
            on_cpu=not self.gpus,
            arguments={**self.arguments, **self.tuning},
            executable=self.executable,
            command=self.command,
        )

    def launch(self, port: int, key: str) -> Launch:
        """Return the command line of a server."""
        return self.engine.launch(self.served, port, key)

    @property
    def plan(self) -> str:
        """Say what would be started."""
        port = 65535
        command = shlex.join(self.launch(port, "KEY").command).replace(str(port), "PORT")
        sets = [",".join(map(str, gpus)) for gpus in self.gpu_sets if gpus is not None]
        place = f"on GPUs {'; '.join(sets)}" if sets else "on the CPU"
        return f"starts {self.count} × `{command}` on loopback {place} while it is asked"

    @cached_property
    def file_digest(self) -> str:
        """The hash of a GGUF file."""
        with open(self.path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def _option(self, name: str) -> str:
        return option_path(self.config_path, name)


def _check_command(command: str, where: str) -> None:
    try:
        words: Collection[str] = shlex.split(command)
    except ValueError as error:
        raise ConfigError(f"{where}: {command!r} is no command line ({error})") from None
    for name in ("path", "port"):
        if not any(f"{{{name}}}" in word for word in words):
            known = ", ".join(f"{{{one}}}" for one in PLACEHOLDERS)
            raise ConfigError(
                f"{where}: {command!r} does not say where {{{name}}} belongs; it may have {known}"
            )
