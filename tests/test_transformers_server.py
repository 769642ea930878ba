"""`transformers serve` as the `openai` client sees it: what our own client must cope with.

Where one of these fails after an upgrade, the server has changed its manners; look at what the
client makes of it.
"""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
import pytest

from prefine.judges.prompts import nonce, prompt_text, render
from prefine.judges.verdicts import read_text
from prefine.records import Completion, Message, Prompt
from transformers_server import sampling_folder

PLAYGROUND = Path(__file__).parents[1] / "src" / "prefine" / "playground" / "model"


@pytest.fixture(scope="module")
def sampling(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(sampling_folder(PLAYGROUND, tmp_path_factory.mktemp("sampling") / "playground"))


def ask(url: str, model: str, content: str = "write about tea .", **settings: Any) -> Any:
    with openai.OpenAI(base_url=url, api_key="unused", max_retries=0, timeout=60) as client:
        messages: list[Any] = [{"role": "user", "content": content}]
        return client.chat.completions.create(model=model, messages=messages, **settings)


def text(result: Any) -> str:
    (choice,) = result.choices
    assert isinstance(choice.message.content, str)
    return choice.message.content


def test_a_local_folder_is_a_model_and_is_answered_for_as_a_revision_of_it(hf_server: str) -> None:
    result = ask(hf_server, str(PLAYGROUND), max_tokens=40)
    assert text(result).endswith(".")
    assert result.model == f"{PLAYGROUND}@main"
    assert result.choices[0].finish_reason == "stop"
    assert result.usage.completion_tokens < 40
    assert result.usage.total_tokens == result.usage.prompt_tokens + result.usage.completion_tokens
    assert text(ask(hf_server, f"{PLAYGROUND}@main", max_tokens=40)) == text(result)


def test_n_and_logprobs_are_ignored_with_a_200(hf_server: str, sampling: str) -> None:
    result = ask(hf_server, sampling, n=4, logprobs=True, top_logprobs=5, max_tokens=20)
    assert len(result.choices) == 1
    assert result.choices[0].logprobs is None


def test_a_folder_that_does_not_sample_is_decoded_greedily_at_any_temperature(
    hf_server: str,
) -> None:
    said = {text(ask(hf_server, str(PLAYGROUND), temperature=1.0, max_tokens=30)) for _ in range(3)}
    assert said == {text(ask(hf_server, str(PLAYGROUND), temperature=0.0, max_tokens=30))}


def test_a_generation_config_in_the_request_samples_from_such_a_folder(hf_server: str) -> None:
    body = {
        "generation_config": json.dumps(
            {"do_sample": True, "max_new_tokens": 30, "eos_token_id": 1}
        )
    }
    said = {
        text(ask(hf_server, str(PLAYGROUND), temperature=1.0, extra_body=body)) for _ in range(4)
    }
    assert len(said) > 1


def test_repeated_requests_to_a_folder_that_samples_differ(hf_server: str, sampling: str) -> None:
    said = [text(ask(hf_server, sampling, temperature=1.0, max_tokens=40)) for _ in range(8)]
    assert len(set(said)) >= 7
    assert (
        len({text(ask(hf_server, sampling, temperature=0.0, max_tokens=40)) for _ in range(2)}) == 1
    )
    with ThreadPoolExecutor(4) as pool:
        together = [
            pool.submit(ask, hf_server, sampling, temperature=1.0, max_tokens=40) for _ in range(8)
        ]
        assert len({text(each.result()) for each in together}) >= 7


def test_a_seed_counts_for_one_request_at_a_time(hf_server: str, sampling: str) -> None:
    said = {
        seed: {text(ask(hf_server, sampling, seed=seed, max_tokens=40)) for _ in range(3)}
        for seed in (5, 6)
    }
    assert len(said[5]) == len(said[6]) == 1
    assert said[5] != said[6]


def test_limits_and_stops(hf_server: str, sampling: str) -> None:
    for settings in ({"max_tokens": 3}, {"max_completion_tokens": 3}):
        result = ask(hf_server, sampling, **settings)
        assert (result.choices[0].finish_reason, result.usage.completion_tokens) == ("length", 3)
    # The stop string stays in the text.
    assert text(ask(hf_server, str(PLAYGROUND), stop=[" ."], max_tokens=30)).endswith(" .")
    assert text(ask(hf_server, str(PLAYGROUND), stop=[" ."], max_tokens=30)).count(".") == 1


@pytest.mark.parametrize("field", ["top_k", "min_p", "repetition_penalty"])
def test_fields_that_the_protocol_does_not_know_are_refused(hf_server: str, field: str) -> None:
    with pytest.raises(openai.UnprocessableEntityError) as refused:
        ask(hf_server, str(PLAYGROUND), max_tokens=2, extra_body={field: 1})
    # The exception's own text is no more than its code.
    assert "Unexpected fields" in refused.value.response.text
    assert field in refused.value.response.text


def test_faults_of_the_client_are_answered_with_a_500(hf_server: str) -> None:
    """And the connection is dropped after it, so that a client which keeps it may meet a
    connection error next.
    """
    with pytest.raises(openai.InternalServerError):
        ask(hf_server, "no/such-model", max_tokens=2)
    with pytest.raises(openai.InternalServerError):
        ask(hf_server, str(PLAYGROUND), extra_body={"messages": []})


def test_the_list_of_models_is_of_the_cache_only(hf_server: str) -> None:
    ask(hf_server, str(PLAYGROUND), max_tokens=1)
    with openai.OpenAI(base_url=hf_server, api_key="unused", max_retries=0) as client:
        assert client.models.list().data == []


def test_the_tiny_judge_gives_verdicts_in_letters(hf_server: str, tiny_judge_folder: Path) -> None:
    verdicts = []
    for index in range(12):
        prompt = Prompt.from_text(f"write about tea {index} .")
        answers = [
            Completion(
                id=f"{index}-{side}",
                prompt_id=prompt.id,
                sample_index=side,
                message=Message(
                    role="assistant", content=f"the kettle is {word} . " * (1 + index * side)
                ),
            )
            for side, word in enumerate(("bright", "dull"))
        ]
        code = nonce(0, prompt, *answers)
        (message,) = render(
            prompt_text("helpfulness"), prompt, *answers, nonce=code, style="label", rubric=None
        )
        result = ask(
            hf_server,
            str(tiny_judge_folder),
            message.content,
            temperature=0.0,
            max_tokens=16,
            logprobs=True,
        )
        assert result.choices[0].finish_reason == "stop"
        assert result.usage.completion_tokens == 2
        assert text(result) in ("A", "B")
        verdicts.append(read_text(text(result), nonce=code).p_first)
    assert set(verdicts) <= {0.0, 1.0}
