"""The engines that can be started: their command lines, and what they take.

| engine | prompts go as | adapters | its key comes by |
|---|---|---|---|
| vllm | token ids | beside their base | environment |
| sglang | token ids | beside their base | command line |
| transformers | text that has the ids of our rendering, else messages | no | none |
| llama_cpp | messages | no | environment |
| command | messages, or what `prompts_as` says | no | `{api_key}` |
"""

import json
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from importlib.util import find_spec
from typing import Any, Literal, NamedTuple

HOST = "127.0.0.1"

EngineName = Literal["vllm", "sglang", "transformers", "llama_cpp", "command"]
PromptsAs = Literal["token_ids", "text", "messages"]


class Served(NamedTuple):
    """A model to be served, as command lines are made of it.

    Args:
        path: Folder, hub id or file; for an adapter, that of its base.
        name: The model's name in requests.
        adapter: The adapter's folder, if there is one.
        rank: The adapter's rank.
        tensor_parallel: GPUs of one server.
        on_cpu: There is no GPU.
        arguments: Flags of the engine, by name.
        executable: The program, or the Python, of the engine; None is the one on PATH, or this.
        command: The user's own command line.
    """

    path: str
    name: str
    adapter: str | None
    rank: int
    tensor_parallel: int
    on_cpu: bool
    arguments: Mapping[str, Any]
    executable: str | None
    command: str | None


class Launch(NamedTuple):
    """The command line of a server and the variables beside those of this process."""

    command: tuple[str, ...]
    environment: Mapping[str, str]


class Engine(NamedTuple):
    """An engine.

    Args:
        launch: Its command line for a model, a port and a key.
        prompts_as: The form in which it is sent prompts.
        takes_adapters: It serves an adapter folder.
        names_models: It can be told the model's name in requests.
        concurrency: Requests in flight at each server.
        program: The program on PATH, empty if it is a Python module.
        modules: Python modules that it needs, if this Python runs it.
        install: How to install it.
        ours: Flags that prefine sets, each with the setting that does it, if there is one.
    """

    launch: Callable[[Served, int, str], Launch]
    prompts_as: PromptsAs
    takes_adapters: bool
    names_models: bool
    concurrency: int
    program: str
    modules: tuple[str, ...]
    install: str
    ours: Mapping[str, str]


def _vllm(served: Served, port: int, key: str) -> Launch:
    command = [
        *(served.executable or "vllm", "serve", served.path),
        *("--host", HOST, "--port", str(port), "--served-model-name", _name_of_base(served)),
        # Not the sampling defaults of the model's folder: all settings are in the requests.
        *("--generation-config", "vllm"),
        *("--tensor-parallel-size", str(served.tensor_parallel)),
    ]
    if served.adapter is not None:
        command += ["--enable-lora", "--lora-modules", f"{served.name}={served.adapter}"]
        command += ["--max-lora-rank", str(_allowed_rank(served.rank))]
    return Launch((*command, *flags(served.arguments)), {"VLLM_API_KEY": key})


def _sglang(served: Served, port: int, key: str) -> Launch:
    command = [
        *(served.executable or sys.executable, "-m", "sglang.launch_server"),
        *("--model-path", served.path, "--served-model-name", _name_of_base(served)),
        *("--host", HOST, "--port", str(port), "--api-key", key),
        *("--tp-size", str(served.tensor_parallel)),
    ]
    if served.adapter is not None:
        command += ["--enable-lora", "--lora-paths", f"{served.name}={served.adapter}"]
    return Launch((*command, *flags(served.arguments)), {})


def _transformers(served: Served, port: int, key: str) -> Launch:
    del key
    device = () if not served.on_cpu or "device" in served.arguments else ("--device", "cpu")
    return Launch(
        (
            *(served.executable or sys.executable, "-m", "transformers.cli.transformers"),
            *("serve", served.path, "--host", HOST, "--port", str(port)),
            *device,
            *flags(served.arguments),
        ),
        {},
    )


def _llama_cpp(served: Served, port: int, key: str) -> Launch:
    command = (
        *(served.executable or "llama-server", "--model", served.path, "--alias", served.name),
        *("--host", HOST, "--port", str(port), "--jinja"),
        *flags(served.arguments),
    )
    return Launch(command, {"LLAMA_API_KEY": key})


def _command(served: Served, port: int, key: str) -> Launch:
    assert served.command is not None, "checked by the backend"
    values = {"path": served.path, "port": str(port), "host": HOST, "api_key": key}
    return Launch(tuple(_filled(word, values) for word in shlex.split(served.command)), {})


PLACE = {"host": "", "port": "", "api-key": ""}
ENGINES: dict[EngineName, Engine] = {
    "vllm": Engine(
        _vllm,
        "token_ids",
        takes_adapters=True,
        names_models=True,
        concurrency=128,
        program="vllm",
        modules=(),
        install="pip install vllm (or in an environment of its own, executable: ENV/bin/vllm)",
        ours=PLACE
        | {"model": "path", "served-model-name": "", "generation-config": ""}
        | {"tensor-parallel-size": "tensor_parallel", "enable-lora": "", "lora-modules": ""},
    ),
    "sglang": Engine(
        _sglang,
        "token_ids",
        takes_adapters=True,
        names_models=True,
        concurrency=128,
        program="",
        modules=("sglang",),
        install="pip install sglang (or in an environment of its own, executable: ENV/bin/python)",
        ours=PLACE
        | {"model-path": "path", "served-model-name": "", "lora-paths": "", "enable-lora": ""}
        | {"tp-size": "tensor_parallel", "tp": "tensor_parallel"}
        | {"tensor-parallel-size": "tensor_parallel"},
    ),
    "transformers": Engine(
        _transformers,
        "text",
        takes_adapters=False,
        names_models=False,
        concurrency=1,
        program="",
        modules=("transformers", "fastapi", "uvicorn", "openai"),
        install="pip install 'transformers[serving]'",
        ours=PLACE | {"force-model": "path"},
    ),
    "llama_cpp": Engine(
        _llama_cpp,
        "messages",
        takes_adapters=False,
        names_models=True,
        concurrency=4,
        program="llama-server",
        modules=(),
        install="install llama.cpp (https://github.com/ggml-org/llama.cpp)",
        ours=PLACE | {"model": "path", "alias": ""},
    ),
    "command": Engine(
        _command,
        "messages",
        takes_adapters=False,
        names_models=False,
        concurrency=16,
        program="",
        modules=(),
        install="install it, or mend command",
        ours={},
    ),
}
"""The engines by their names in a configuration."""

PLACEHOLDERS = ("path", "port", "host", "api_key")
"""The names that may stand in braces in a command line."""


def missing(name: EngineName, served: Served) -> str | None:
    """Return what of an engine is not on this machine, in words; None if it can be started."""
    engine = ENGINES[name]
    program = engine.program
    if name == "command":
        program = shlex.split(served.command or "")[0]
    program = served.executable or program
    if program:
        return None if shutil.which(program) else f"there is no program {program!r}"
    absent = [module for module in engine.modules if find_spec(module) is None]
    return f"this Python has no module {', '.join(absent)}" if absent else None


def flags(arguments: Mapping[str, Any]) -> Iterator[str]:
    """Yield arguments as a command line has them.

    True is a flag alone and False is `--no-NAME`; a list is several values, a mapping is JSON.
    """
    for name, value in arguments.items():
        flag = flag_of(name)
        if isinstance(value, bool):
            yield f"--{flag}" if value else f"--no-{flag}"
            continue
        yield f"--{flag}"
        if isinstance(value, Mapping):
            yield json.dumps(value)
        else:
            yield from map(str, value if isinstance(value, list | tuple) else [value])


def flag_of(name: str) -> str:
    """Return the name of a flag as it is written behind `--`."""
    return name.lstrip("-").replace("_", "-")


def _name_of_base(served: Served) -> str:
    """Return another name for the base of an adapter, so that no request can miss the adapter."""
    return served.name if served.adapter is None else f"{served.name}-base"


def _filled(word: str, values: Mapping[str, str]) -> str:
    for name in PLACEHOLDERS:
        word = word.replace(f"{{{name}}}", values[name])
    return word


def _allowed_rank(rank: int) -> int:
    """Return the smallest rank that vLLM allows for adapters of this one."""
    allowed = (8, 16, 32, 64, 128, 256, 320, 512)
    return next((one for one in allowed if one >= rank), rank)
