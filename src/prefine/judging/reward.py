"""A reward model as a judge: a Hugging Face sequence classifier with one output."""

from typing import Annotated, Literal

from pydantic import Field

from prefine.judging.scores import ScoreJudge


def reward(
    *,
    path: str,
    temperature: Annotated[float, Field(gt=0)] = 1.0,
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto",
    device: str = "auto",
    batch_rows: Annotated[int, Field(gt=0)] = 16,
    max_tokens: Annotated[int, Field(gt=0)] | None = None,
) -> ScoreJudge:
    """P(first) = sigmoid((reward of first − reward of second) / temperature); each completion is scored once.

    Args:
        path: Folder or hub id of a sequence classifier with one label and a chat template.
        temperature: Reward gap that makes the odds e to 1. Bradley–Terry reward models are trained
            for 1.
        dtype: "auto" is the dtype that the weights are stored in.
        device: "auto" is the accelerator when there is one.
        batch_rows: Conversations scored at a time.
        max_tokens: Longer conversations are failures; None is what the model reads.
    """
    from prefine.models.hf.reward import RewardModel

    scorer = RewardModel(
        path=path, dtype=dtype, device=device, batch_size=batch_rows, max_tokens=max_tokens
    )
    return ScoreJudge(scorer, temperature=temperature)
