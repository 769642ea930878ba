"""Judge and policy of one family are noticed by their names."""

import pytest

from prefine.config.base import Component
from prefine.judging.choose import same_family


def judge(**model: str) -> Component:
    return Component.model_validate({"name": "pairwise", "model": {"name": "openai", **model}})


@pytest.mark.parametrize(
    ("policy", "asked", "alike"),
    [
        ("Qwen/Qwen2.5-0.5B-Instruct", "Qwen/Qwen3-32B", True),
        ("Qwen/Qwen2.5-0.5B-Instruct", "qwen2.5-7b", True),
        ("HuggingFaceTB/SmolLM2-135M-Instruct", "meta-llama/Llama-3.1-8B-Instruct", False),
        ("runs/mine/model", "other/model", False),
        ("runs/mine/model", "runs/mine/model", True),
        ("", "", False),
    ],
)
def test_by_name(policy: str, asked: str, alike: bool) -> None:
    note = same_family(Component.model_validate({"name": "hf", "path": policy}), judge(model=asked))
    assert (note is not None) == alike


def test_a_bridge_model_is_named_as_one() -> None:
    bridge = Component.model_validate({"name": "openai", "model": "gpt-5"})
    asked = judge(model="gpt-5-mini")
    note = same_family(bridge, asked, writer="bridge.model", result="bridged pairs")
    assert note is not None and "judge (gpt-5-mini) and bridge.model (gpt-5)" in note
    assert note.endswith("before you trust the bridged pairs")


def test_judges_without_a_model_have_no_family() -> None:
    assert same_family(Component(name="playground"), Component(name="recorded")) is None


def test_a_reward_model_is_of_a_family_too() -> None:
    policy = Component.model_validate({"name": "hf", "path": "Qwen/Qwen3-0.6B"})
    reward = Component.model_validate({"name": "reward", "path": "Qwen/Qwen2.5-Math-RM"})
    note = same_family(policy, reward, role="scorer")
    assert note is not None and note.startswith("scorer (Qwen/Qwen2.5-Math-RM) and policy")
    assert (
        same_family(policy, Component.model_validate({"name": "mine:score", "path": "qwen.txt"}))
        is None
    )
