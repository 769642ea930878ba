"""The backend `served`: its options, its servers' command lines, what is asked and what is made
of it.
"""

import json
import shutil
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import stand_in_engine as engine
from prefine import chat
from prefine.calls.engine import CallEngine
from prefine.calls.protocol import Call
from prefine.config.base import Component
from prefine.config.sections import Decoding
from prefine.errors import BackendError, ConfigError, PrefineError
from prefine.models.capabilities import backend_of
from prefine.models.hf.loading import load_tokenizer
from prefine.models.mixture import MixtureModel
from prefine.models.playground import playground_folder
from prefine.models.protocol import SampleRequest, Samples, sample_key
from prefine.models.served.backend import ServedModel
from prefine.models.served.serving import Serving
from prefine.records import Completion, Message, Prompt
from prefine.run.journal import Journal

FOLDER = str(playground_folder())
PROMPTS = [Prompt.from_text(f"write about {what} .") for what in ("tea", "rain", "the sea")]
GREEDY = Decoding(temperature=0.0, max_new_tokens=6)


def draw(
    model: Samples, folder: Path, decoding: Decoding = GREEDY, prompts: list[Prompt] = PROMPTS
) -> list[Any]:
    """Draw two completions of each prompt through an engine with a journal."""
    requests = [SampleRequest(prompt, index) for prompt in prompts for index in range(2)]
    calls = [Call(sample_key(model.fingerprint, one, decoding), one) for one in requests]
    asker = CallEngine(Journal(folder / "journal.sqlite"))

    async def work() -> list[Any]:
        found = await asker.ask(
            calls, Completion, lambda wanted: model.sample(calls, wanted, decoding), backend=model
        )
        return [found[call.key] for call in calls]

    return asker.run(work())


def stand_in(log: Path, **options: Any) -> ServedModel:
    settings = {"path": FOLDER, "engine": "command", "command": engine.command(log)}
    return ServedModel(**(settings | options))


def serving(**options: Any) -> Serving:
    settings: dict[str, Any] = {
        "path": FOLDER,
        "name": "vllm",
        "replicas": "auto",
        "tensor_parallel": 1,
        "arguments": {},
        "tuning": {},
        "command": None,
        "executable": None,
        "prompts_as": "token_ids",
        "config_path": "policy",
    }
    return Serving(**(settings | options))


# --- what is sent, and what is made of the answer


def test_token_ids_of_our_rendering_go_to_vllm_and_come_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "log"
    monkeypatch.setenv("STAND_IN_LOG", str(log))
    program = tmp_path / "vllm"
    program.write_text(
        f"#!{sys.executable}\nimport runpy\nrunpy.run_path({engine.__file__!r}, "
        "run_name='__main__')\n"
    )
    program.chmod(0o755)
    model = ServedModel(
        path=FOLDER,
        engine="vllm",
        executable=str(program),
        arguments={"dtype": "float32", "enforce_eager": True, "enable-prefix-caching": False},
        tuning={"gpu-memory-utilization": 0.5},
    )
    model.check_model()
    drawn = draw(model, tmp_path)

    (start,) = engine.logged(log, "start")
    assert start["words"] == [
        *("--path", FOLDER, "--host", "127.0.0.1", "--port", str(start["port"])),
        *("--served-model-name", "served", "--generation-config", "vllm"),
        *("--tensor-parallel-size", "1", "--dtype", "float32", "--enforce-eager"),
        *("--no-enable-prefix-caching", "--gpu-memory-utilization", "0.5"),
    ]
    check_token_ids(drawn, log)


def test_token_ids_of_our_rendering_go_to_sglang_and_come_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "log"
    module = tmp_path / "sglang"
    module.mkdir()
    (module / "__init__.py").touch()
    shutil.copy(engine.__file__, module / "launch_server.py")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("STAND_IN_LOG", str(log))
    model = ServedModel(path=FOLDER, engine="sglang", executable=sys.executable)
    model.check_model()
    drawn = draw(model, tmp_path)

    (start,) = engine.logged(log, "start")
    assert start["words"][:4] == ["--path", FOLDER, "--served-model-name", "served"]
    assert start["words"][-2:] == ["--tp-size", "1"]
    check_token_ids(drawn, log)


def check_token_ids(drawn: list[Completion], log: Path) -> None:
    tokenizer = load_tokenizer(FOLDER)
    requests = engine.logged(log, "request")
    assert [one["at"] for one in requests] == ["/v1/completions"] * 6
    assert len({one["key"] for one in requests}) == 1
    assert len(requests[0]["key"]) > len("Bearer ") + 20
    asked = {tuple(one["body"]["prompt"]) for one in requests}
    assert asked == {tuple(chat.prompt_ids(tokenizer, prompt)) for prompt in PROMPTS}
    assert {one["body"]["model"] for one in requests} == {"served"}
    body = requests[0]["body"]
    assert {name: body[name] for name in ("temperature", "top_p", "top_k", "max_tokens")} == {
        "temperature": 0.0, "top_p": 1.0, "top_k": -1, "max_tokens": 6,
    }  # fmt: skip
    assert body["stop_token_ids"] == [1] and body["repetition_penalty"] == 1.0
    by_seed = {one["body"]["seed"]: engine.token_ids(one["body"]) for one in requests}
    assert len(by_seed) == 6, "each completion has a seed of its own"
    assert {one.token_ids for one in drawn} == {tuple(ids) for ids in by_seed.values()}
    for one in drawn:
        assert one.token_ids is not None and one.token_ids[-1] == 1
        assert one.text == tokenizer.decode(one.token_ids[:-1], skip_special_tokens=True)
        assert one.tokenizer_hash == chat.tokenizer_hash(tokenizer)
        assert chat.completion_ids(
            tokenizer, PROMPTS[0], one, tokenizer_hash=one.tokenizer_hash, stop_token_id=1
        ) == list(one.token_ids)


def test_text_of_our_rendering_goes_where_ids_are_not_taken(tmp_path: Path) -> None:
    log = tmp_path / "log"
    model = stand_in(log, prompts_as="text")
    special = Prompt.from_text("what is <|end|> ?")
    drawn = draw(model, tmp_path, prompts=[PROMPTS[0], special])
    requests = engine.logged(log, "request")
    texts = [one["body"]["prompt"] for one in requests if one["at"] == "/v1/completions"]
    assert texts == ["<|user|>write about tea .<|end|><|assistant|>"] * 2
    messages = [one["body"]["messages"] for one in requests if "messages" in one["body"]]
    assert messages == [[{"role": "user", "content": "what is <|end|> ?"}]] * 2
    assert any("a special token; they went as messages" in note for note in model.notes)
    seeds = [one["body"]["seed"] for one in requests if one["at"] == "/v1/completions"]
    assert {one.text for one in drawn[:2]} == {engine.says(texts[0], seed) for seed in seeds}
    assert drawn[0].token_ids is None


def test_messages_go_to_a_command_by_default(tmp_path: Path) -> None:
    log = tmp_path / "log"
    model = stand_in(log, command=f"{engine.command(log)} --no-health --api-key {{api_key}}")
    prompt = Prompt.make([Message(role="system", content="Be short."), *PROMPTS[0].messages])
    draw(model, tmp_path, Decoding(temperature=0.7, top_p=0.9, max_new_tokens=5), [prompt])
    (body, _) = [one["body"] for one in engine.logged(log, "request")]
    assert body["messages"][0] == {"role": "system", "content": "Be short."}
    assert (body["temperature"], body["top_p"], body["max_tokens"]) == (0.7, 0.9, 5)
    assert body["model"] == FOLDER
    assert any("prompts go as messages" in note for note in model.notes)


def test_it_answers_as_a_judges_model_with_the_first_tokens(tmp_path: Path) -> None:
    model = stand_in(tmp_path / "log", prompts_as="text")
    question = (Message(role="user", content="A or B ?"),)

    async def work() -> Any:
        try:
            return await model.respond(
                [question], max_new_tokens=1, temperature=0.0, seed=3, first_token=True
            )
        finally:
            await model.aclose()

    import asyncio

    (reply,) = asyncio.run(work())
    assert reply.first_token_logps == {"A": -0.25, "B": -1.5}
    assert not engine.running(tmp_path / "log")


def test_garbage_is_a_failure_and_no_completion(tmp_path: Path) -> None:
    log = tmp_path / "log"
    line = f"{engine.command(log)} --garbage"
    model = stand_in(log, command=line, timeout_s=0.4, max_restarts=0)
    with pytest.raises(BackendError, match=r"no server is left.*answered nothing for 0\.8 s"):
        draw(model, tmp_path)
    assert not engine.running(log)


# --- keys


def test_the_fingerprint_is_of_what_answers_depend_on(tmp_path: Path) -> None:
    log = tmp_path / "log"
    one = stand_in(log).fingerprint
    same = [
        stand_in(log, replicas=4, concurrency=3, timeout_s=5.0, max_retries=0),
        stand_in(log, start_timeout_s=4.0, max_restarts=0, label="x", tensor_parallel=2),
        stand_in(log).at(FOLDER),
    ]
    assert {model.fingerprint for model in same} == {one}
    changed = tmp_path / "changed"
    shutil.copytree(FOLDER, changed)
    (changed / "generation_config.json").write_text(json.dumps({"eos_token_id": [1, 2]}))
    others = [
        stand_in(log, path=str(changed)),
        stand_in(log, prompts_as="text"),
        stand_in(log, command=engine.command(log, "--seconds", "0")),
        ServedModel(path=FOLDER, engine="transformers", prompts_as="messages"),
        ServedModel(path=FOLDER, engine="vllm"),
        ServedModel(path=FOLDER, engine="vllm", arguments={"quantization": "fp8"}),
    ]
    assert len({one, *(model.fingerprint for model in others)}) == 7
    tuned = ServedModel(path=FOLDER, engine="vllm", tuning={"max-num-seqs": 8})
    assert tuned.fingerprint == ServedModel(path=FOLDER, engine="vllm").fingerprint


def test_journaled_answers_are_not_asked_again(tmp_path: Path) -> None:
    log = tmp_path / "log"
    first = draw(stand_in(log), tmp_path)
    assert draw(stand_in(log, replicas=2), tmp_path) == first
    assert len(engine.logged(log, "request")) == 6
    assert len(engine.logged(log, "start")) == 1, "no server is started for a full journal"


def test_a_mixture_stops_the_servers_of_all_its_models(tmp_path: Path) -> None:
    logs = [tmp_path / "first", tmp_path / "second"]
    models = tuple(partial(stand_in, log) for log in logs)
    assert len(draw(MixtureModel(models=models, weights=(1.0, 1.0)), tmp_path)) == 6
    assert [len(engine.logged(log, "request")) for log in logs] == [3, 3]
    assert not any(map(engine.running, logs))


# --- GPUs and adapters


def test_gpus_are_divided_among_the_servers() -> None:
    def sets(gpus: int, **options: Any) -> list[list[int] | None]:
        made = serving(**options)
        made.__dict__["gpus"] = gpus
        return made.gpu_sets

    assert sets(0) == [None]
    assert sets(0, replicas=3) == [None, None, None]
    assert sets(4) == [[0], [1], [2], [3]]
    assert sets(8, tensor_parallel=2) == [[0, 1], [2, 3], [4, 5], [6, 7]]
    assert sets(5, tensor_parallel=2) == [[0, 1], [2, 3]]
    assert sets(1, replicas=2) == [[0], [0]]


def test_an_adapter_is_served_on_its_base_where_the_engine_takes_it(tmp_path: Path) -> None:
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_model.safetensors").touch()
    settings = {"base_model_name_or_path": FOLDER, "r": 12}
    (adapter / "adapter_config.json").write_text(json.dumps(settings))
    words = serving(path=str(adapter)).launch(1, "KEY").command
    assert words[:3] == ("vllm", "serve", FOLDER)
    assert "served-base" in words
    assert words[-5:] == (
        *("--enable-lora", "--lora-modules", f"served={adapter}"),
        *("--max-lora-rank", "16"),
    )
    words = serving(path=str(adapter), name="sglang").launch(1, "KEY").command
    assert words[-3:] == ("--enable-lora", "--lora-paths", f"served={adapter}")
    refusing = serving(path=str(adapter), name="transformers", prompts_as="text")
    with pytest.raises(ConfigError, match=r"train\.adapter\.save: merged"):
        refusing.check()
    with pytest.raises(ConfigError, match="engine transformers takes none"):
        refusing.launch(1, "KEY")


# --- mistakes, found before anything is started

WRONG: list[tuple[dict[str, Any], str]] = [
    ({"engine": "vllm"}, "policy.engine: vllm: there is no program 'vllm'; pip install vllm"),
    (
        {"engine": "vllm", "executable": "/no/vllm"},
        "policy.executable: vllm: there is no program '/no/vllm'; pip install vllm",
    ),
    ({"engine": "sglang"}, "this Python has no module sglang; pip install sglang"),
    ({"engine": "llama_cpp"}, "llama_cpp serves a .gguf file"),
    ({"engine": "transformers", "path": "/no/folder"}, "policy.path"),
    ({"engine": "ollama"}, "policy.engine"),
    ({"engine": "transformers", "replicas": 0}, "policy.replicas"),
    ({"engine": "command"}, "policy.command: engine command needs a command line"),
    ({"engine": "command", "command": "serve {path}"}, "does not say where {port} belongs"),
    ({"engine": "command", "command": "serve '{path} {port}"}, "is no command line"),
    (
        {"engine": "command", "command": "no-such-program {path} {port}"},
        "policy.command: command: there is no program 'no-such-program'",
    ),
    ({"engine": "vllm", "command": "x {path} {port}"}, "it is for engine command"),
    (
        {"engine": "vllm", "arguments": {"tensor_parallel_size": 2}},
        "policy.arguments.tensor-parallel-size: prefine sets this flag itself; set tensor_parallel",
    ),
    ({"engine": "vllm", "tuning": {"--port": 2}}, "policy.tuning.port: prefine sets this flag"),
    (
        {"engine": "vllm", "arguments": {"dtype": "half"}, "tuning": {"dtype": "float"}},
        "policy.tuning: dtype is in arguments, too",
    ),
    (
        {"engine": "command", "command": "python {path} {port}", "arguments": {"dtype": "half"}},
        "write them into command",
    ),
    (
        {"engine": "llama_cpp", "path": "x.gguf", "chat_template": "t.jinja"},
        "the server renders messages by its own template",
    ),
    ({"engine": "vllm", "path": "x.gguf"}, "is a GGUF file; use engine: llama_cpp"),
]


@pytest.mark.parametrize(("options", "words"), WRONG, ids=lambda value: str(value)[:60])
def test_mistakes_are_named_before_anything_is_started(
    options: dict[str, Any], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent))
    component = Component(name="served", **({"path": FOLDER} | options))
    with pytest.raises(PrefineError) as error:
        backend_of(component, Samples, where="policy").check_model()  # type: ignore[attr-defined]
    assert words in str(error.value)


def test_a_gguf_file_is_not_trained(tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    file.write_bytes(b"GGUF")
    model = ServedModel(path=str(file), engine="llama_cpp", executable=sys.executable)
    model.check_model()
    with pytest.raises(ConfigError, match="name a Hugging Face folder"):
        _ = model.tokenizer
    words = serving(path=str(file), name="llama_cpp").launch(5, "KEY")
    assert words.command[:3] == ("llama-server", "--model", str(file))
    assert words.environment == {"LLAMA_API_KEY": "KEY"}
