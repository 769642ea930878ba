"""The mock server: what a client of the official package sees, its providers, and its limiter."""

import json
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import openai
import pytest

from command import prefine
from mock_place import mock_server
from prefine.models.mock_server.profiles import PROFILES


def ask(url: str, text: str = "hello", **fields: object) -> openai.types.chat.ChatCompletion:
    with openai.OpenAI(base_url=url, api_key="k", max_retries=0, timeout=5) as client:
        return client.chat.completions.create(
            model="mock",
            messages=[{"role": "user", "content": text}],
            **fields,  # type: ignore[call-overload]
        )


def test_the_official_client_understands_its_answers() -> None:
    with mock_server() as at:
        answer = ask(at.url, n=2, seed=3)
        again = ask(at.url, n=2, seed=3)
        other = ask(at.url, n=2, seed=4)
        cut = ask(at.url, max_tokens=3)
    texts = [choice.message.content for choice in answer.choices]
    assert len(set(texts)) == 2
    assert texts == [choice.message.content for choice in again.choices]
    assert texts != [choice.message.content for choice in other.choices]
    assert cut.choices[0].finish_reason == "length"
    assert len(str(cut.choices[0].message.content).split()) == 3
    assert answer.usage is not None and answer.usage.completion_tokens == 48


def test_a_judge_gets_its_letter_with_probabilities_and_its_verdict_line() -> None:
    with mock_server() as at:
        letter = ask(at.url, "Answer with A or B", logprobs=True, top_logprobs=5)
        line = ask(at.url, "verdict-0123456789abcdef: A|B|tie")
    logprobs = letter.choices[0].logprobs
    assert logprobs is not None and logprobs.content is not None
    assert {top.token for top in logprobs.content[0].top_logprobs} == {"A", "B"}
    said = str(line.choices[0].message.content).splitlines()[-1]
    assert said in ("verdict-0123456789abcdef: A", "verdict-0123456789abcdef: B")


def test_the_limiter_serves_its_rate_and_says_when_to_come_back() -> None:
    def wait_asked_for(number: int) -> str | None:
        try:
            ask(at.url)
        except openai.RateLimitError as error:
            return error.response.headers["retry-after"]
        return None

    # All at once: however slow the machine, twelve do not take the eleven seconds of a rate of 1.
    with mock_server(limit=1, retry_after="seconds") as at, ThreadPoolExecutor(12) as pool:
        waits = list(pool.map(wait_asked_for, range(12)))
    assert None in waits
    assert set(waits) == {None, "2"}


def test_what_it_counted() -> None:
    with mock_server(fault="500", fault_share=1.0) as at:
        with pytest.raises(openai.InternalServerError):
            ask(at.url)
        with urllib.request.urlopen(at.url.replace("/v1", "/stats")) as response:
            counted = json.load(response)
    assert (counted["requests"], counted["statuses"]) == (1, {"500": 1})


@pytest.mark.parametrize("profile", PROFILES)
def test_sampling_and_judging_at_each_provider(profile: str, tmp_path: Path) -> None:
    """Every provider's refusals are got along with, and each is noted once."""
    prompts = "".join(json.dumps({"prompt": f"question {n}"}) + "\n" for n in range(4))
    (tmp_path / "prompts.jsonl").write_text(prompts, encoding="utf-8")
    with mock_server(profile=profile) as at:
        model = {"name": "openai", "model": "mock", "base_url": at.url}
        config = {
            "run_dir": str(tmp_path / "run"),
            "policy": {"name": "playground"},
            "prompts": {"name": "file", "path": str(tmp_path / "prompts.jsonl")},
            "sample": {"model": model, "completions_per_prompt": 3, "max_new_tokens": 32},
            "rank": {"judge": {"name": "pairwise", "model": model}},
        }
        (tmp_path / "run.yaml").write_text(json.dumps(config), encoding="utf-8")
        for stage in ("sample", "rank"):
            result = prefine(stage, str(tmp_path / "run.yaml"))
            assert result.code == 0, result.err
    stages = json.loads((tmp_path / "run" / "manifest.json").read_text(encoding="utf-8"))["stages"]
    assert stages["sample"]["counts"]["produced"] == 12
    assert stages["rank"]["counts"]["failed"] == {}
    for stage in stages.values():
        assert len(set(stage["notes"])) == len(stage["notes"])
    refused = " ".join(stages["sample"]["notes"] + stages["rank"]["notes"])
    assert EXPECTED.get(profile, "mock:") in refused or profile in ("plain", "sglang")


EXPECTED = {
    "openai": "max_completion_tokens",
    "anthropic": "refuses n",
    "gemini": "refuses seed",
    "mistral": "refuses seed",
    "groq": "refuses logprobs",
    "openrouter": "refuses logprobs",
    "litellm": "refuses seed",
    "vllm": "at most 5 top_logprobs",
    "tgi": "refuses temperature 0",
    "llama_cpp": "refuses n",
    "ollama": "ignores n",
}
