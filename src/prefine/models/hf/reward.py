"""Reward models: Hugging Face sequence classifiers with one output, scored in batches."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

import torch
from jinja2 import TemplateError
from transformers import AutoModelForSequenceClassification

from prefine.calls.protocol import Failure
from prefine.chat import conversation_ids
from prefine.errors import BackendError, at_config_path, option_path
from prefine.models.capabilities import provides
from prefine.models.hf.adapters import base_of, load_onto
from prefine.models.hf.architecture import positions
from prefine.models.hf.checks import check_classifier, check_outputs
from prefine.models.hf.loading import (
    Dtype,
    check_device,
    default_device,
    load_model,
    load_tokenizer,
    load_weights,
    weights_fingerprint,
)
from prefine.models.hf.reward_head import with_reward_head
from prefine.models.protocol import Answered, Checks
from prefine.records import content_hash


@provides(Checks)
@dataclass(eq=False, kw_only=True)
class RewardModel:
    """The reward of a conversation that ends with the completion [the model's own unit].

    Args:
        path: Folder or hub id.
        dtype: "auto" is the dtype that the weights are stored in.
        device: "auto" is the accelerator when there is one.
        batch_size: Conversations scored at a time.
        max_tokens: Longer conversations are failures; None is what the model reads.
        config_path: Of the judge, for messages.
    """

    path: str
    dtype: Dtype
    device: str
    batch_size: int
    max_tokens: int | None
    config_path: str = ""
    notes: list[str] = field(default_factory=list, init=False)
    batches_matter: ClassVar = True
    concurrency: ClassVar = 1
    reads_metadata: ClassVar = False

    @cached_property
    def fingerprint(self) -> str:
        """Hash of weights, tokenizer and how they are run."""
        return content_hash("reward", weights_fingerprint(self.path), self.dtype, self.batch_size)

    def check_model(self) -> None:
        """Raise before any work if folder or device cannot be used; loads no weights."""
        check_device(self.device, where=option_path(self.config_path, "device"))
        with at_config_path(self.config_path, "path"):
            check_classifier(self.path)

    @torch.inference_mode()
    def scores(self, items: Sequence[Answered]) -> list[float | Failure]:
        """Return one reward per item, in order."""
        rows = [self._ids(item) for item in items]
        limit = self.max_tokens or positions(self._model) or math.inf
        for index, row in enumerate(rows):
            if isinstance(row, list) and len(row) > limit:
                rows[index] = Failure(
                    f"the conversation is longer than the reward model's {limit} tokens"
                )
        fitting = [row for row in rows if isinstance(row, list)]
        rewards = iter(self._rewards(fitting) if fitting else ())
        return [row if isinstance(row, Failure) else next(rewards) for row in rows]

    def _rewards(self, rows: Sequence[list[int]]) -> list[float | Failure]:
        # Classifiers read the last token that is not padding, so padding must not look like any
        # row's last token: with the usual "padding is end of sequence" the reward of a short row
        # would be read one token early.
        lasts = {row[-1] for row in rows}
        pad = next(token for token in range(len(lasts) + 1) if token not in lasts)
        self._model.config.pad_token_id = pad
        width = max(map(len, rows))
        ids = torch.tensor(
            [row + [pad] * (width - len(row)) for row in rows], device=self._model.device
        )
        # A row may hold the padding's token elsewhere, where it is not padding.
        mask = torch.tensor(
            [[1] * len(row) + [0] * (width - len(row)) for row in rows], device=self._model.device
        )
        values = self._model(input_ids=ids, attention_mask=mask).logits.float()[:, 0].tolist()
        return [value if math.isfinite(value) else Failure(_not_finite(value)) for value in values]

    def _ids(self, item: Answered) -> list[int] | Failure:
        try:
            return conversation_ids(self._tokenizer, item.prompt, item.completion)
        except TemplateError as error:
            return Failure(
                f"the reward model's chat template refuses the conversation: {error}"[:200]
            )

    @cached_property
    def _tokenizer(self) -> Any:
        return load_tokenizer(self.path)

    @cached_property
    def _model(self) -> Any:
        base = base_of(self.path)
        model = self._classifier() if base is None else self._adapted(base)
        check_outputs(self.path, model.config)
        device = default_device() if self.device == "auto" else self.device
        return model.to(device).eval()

    def _classifier(self) -> Any:
        model, missing = load_weights(
            AutoModelForSequenceClassification,
            self.path,
            self.dtype,
            "reward model",
            self.notes.append,
        )
        # A causal model's folder loads too, with a head drawn at random.
        if missing:
            raise BackendError(
                f"{self.path}: {', '.join(missing[:3])} is missing from the files, so this is no "
                "reward model; give a sequence classifier"
            )
        return model

    def _adapted(self, base: str) -> Any:
        """The base model with an adapter, whose file has the layer of the score."""
        model = load_model(base, dtype=self.dtype, device="cpu", note=self.notes.append)
        # What is drawn here is replaced: `load_onto` refuses an adapter that lacks a weight.
        adapted = load_onto(with_reward_head(model, base, seed=0), self.path)
        # The score keeps the precision that it was trained in, also behind layers of a lower one.
        score = adapted.get_base_model().score
        dtype = next(score.parameters()).dtype
        score.register_forward_pre_hook(lambda _, inputs: (inputs[0].to(dtype),))
        return adapted


def _not_finite(value: float) -> str:
    """Name the value and the remedy; a reason is counted, so it names no conversation."""
    return (
        f"the reward is {value}, not a finite number: the reward model's weights are damaged, or "
        "overflow in their dtype; restore its folder, or give the judge dtype: float32"
    )
