"""A causal language model with one score in place of its vocabulary: the start of a reward model.

It becomes the sequence classifier that transformers has for its family, so that the trained folder
is an ordinary one, with one label.
"""

import math
from typing import Any

import torch
from torch import nn
from transformers import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING

from prefine.errors import ConfigError
from prefine.models.hf.architecture import skeleton

_SCORE = "score"


def reward_skeleton(path: str) -> Any:
    """Return the reward model that a folder's model can become, without weights.

    Raises:
        BackendError: There is no configuration, or it is damaged.
        ConfigError: transformers has no classifier for it that reads the last token.
    """
    return _joined(skeleton(path), path)


def with_reward_head(model: Any, path: str, *, seed: int) -> Any:
    """Return a sequence classifier of one label whose layers are those of a model.

    The new layer is drawn with a standard deviation of 1 / sqrt(width + 1), so that first rewards
    are about 1 (arXiv:2009.01325, appendix B).

    Args:
        model: A causal language model without an adapter; its layers are taken, not copied.
        path: Its folder, for messages.
        seed: Seed of the new layer.

    Raises:
        ConfigError: As `reward_skeleton`.
    """
    classifier = _joined(model, path)
    weights = next(model.parameters())
    width = classifier.score.in_features
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(1, width, generator=generator, dtype=torch.float64) / math.sqrt(width + 1)
    dtype = torch.promote_types(weights.dtype, torch.float32)
    classifier.score = nn.Linear(width, 1, bias=False, device="meta")
    classifier.score.weight = nn.Parameter(drawn.to(weights.device, dtype))
    return classifier.eval()


def _joined(model: Any, path: str) -> Any:
    """Return the classifier of a model's family with the model's own layers; its score is empty."""
    config = model.config
    kind = type(config)
    found: Any = MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING.get(kind, None)
    if isinstance(found, tuple | list):
        found = found[0]
    refusal = ConfigError(
        f"{path}: transformers has no classifier that scores the last token of "
        f"{type(model).__name__}, so no "
        "reward model can be made of it; choose another model, such as one of the families Llama, "
        "Qwen, Mistral, Gemma or GPT-2"
    )
    if found is None:
        raise refusal
    known = config.to_dict()
    for name in ("id2label", "label2id"):
        known.pop(name, None)
    settings = kind.from_dict({**known, "num_labels": 1})
    with torch.device("meta"):
        classifier = found(settings)
    prefix = classifier.base_model_prefix
    ours, theirs = getattr(model, prefix, None), getattr(classifier, prefix, None)
    score = getattr(classifier, _SCORE, None)
    if type(score) is not nn.Linear or ours is None or type(ours) is not type(theirs):
        raise refusal
    setattr(classifier, prefix, ours)
    others = [
        name
        for name, _ in classifier.named_parameters()
        if not name.startswith((f"{prefix}.", f"{_SCORE}."))
    ]
    if others or score.bias is not None:
        raise refusal
    # Of the layers themselves, which a call has already set for this machine.
    classifier.config._attn_implementation = config._attn_implementation
    return classifier
