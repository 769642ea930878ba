"""Values of the initial policy and the reference: one pass before training, kept in a file."""

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from prefine.atomic import write_atomically
from prefine.errors import NumericsError
from prefine.records import content_hash
from prefine.training.distributed.processes import from_main, is_main
from prefine.training.forward.layers import ComputeDtype
from prefine.training.forward.passes import Forward
from prefine.training.forward.token_values import (
    PairTokens,
    TokenValues,
    concatenate_pairs,
    slices,
)
from prefine.training.items import TokenizedPair
from prefine.training.reference.scoring import score_tokens

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Per scored token [nats]: what other padding changes in a sum, with room to spare; a wrong
# reference is far outside.
_TOLERANCE: dict[torch.dtype, float] = {
    torch.float64: 1e-9,
    torch.float32: 1e-4,
    torch.bfloat16: 3e-2,
}
_PART = 256
_VOLATILE = {
    "_name_or_path",
    "transformers_version",
    "architectures",
    "dtype",
    "torch_dtype",
    "use_cache",
}


def weights_fingerprint(model: "PreTrainedModel") -> str:
    """Hash of all weights and of the settings that change what they compute."""
    settings = {key: value for key, value in model.config.to_dict().items() if key not in _VOLATILE}
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def cached_tokens(
    forward: Forward,
    examples: Sequence[TokenizedPair],
    *,
    folder: Path,
    should_stop: Callable[[], bool] | None = None,
) -> tuple[PairTokens, bool]:
    """`score_tokens`, kept in `folder` and reused by whoever asks the same of the same weights.

    The examples are scored and kept in parts of 256, each whole or not at all, so that a pass that
    was interrupted goes on after its last part, and that what is read is to the bit what would be
    computed. The name of a part's file is the hash of the weights, of how they compute (dtype, cut
    of the rows) and of the token ids.

    Returns: The values, and whether all were read instead of computed.
    """
    how = content_hash(
        weights_fingerprint(forward.model),
        forward.dtype,
        forward.shared,
        forward.tokens,
        forward.score_prompts,
    )
    found: list[PairTokens] = []
    reused = True
    for at in slices(len(examples), _PART):
        some = examples[at]
        file = folder / how[:16] / f"{_ids_hash(some)}.safetensors"
        if from_main(file.is_file()):
            stored = load_file(file)
            found.append(
                PairTokens(TokenValues(stored["logps"].to(forward.device)), stored["lengths"])
            )
            continue
        reused = False
        found.append(_scored(forward, some, should_stop))
        # What is not finite ends the training, and would end every later one that read it.
        if is_main() and bool(found[-1].values.logps.isfinite().all()):
            _keep(found[-1], file)
    return concatenate_pairs(found), reused


def _scored(
    forward: Forward, examples: Sequence[TokenizedPair], should_stop: Callable[[], bool] | None
) -> PairTokens:
    """Their values; rows may be smaller for want of memory, and then only here."""
    limit = forward.tokens
    try:
        return score_tokens(forward, examples, should_stop=should_stop)
    finally:
        forward.tokens = limit


def _keep(tokens: PairTokens, file: Path) -> None:
    held = {"logps": tokens.values.logps.cpu(), "lengths": tokens.lengths}
    write_atomically(file, lambda temporary: save_file(held, temporary))


def _ids_hash(examples: Sequence[TokenizedPair]) -> str:
    """Hash of what is read and what of it is scored."""
    digest = hashlib.sha256()
    for example in examples:
        for ids in (
            example.prompt_ids,
            example.chosen_ids,
            example.rejected_ids,
            example.rejected_prompt_ids,
        ):
            digest.update(
                b"none"
                if ids is None
                else b"%d:" % len(ids) + np.asarray(ids, dtype="<i8").tobytes()
            )
    return digest.hexdigest()[:32]


def check_start(
    margin: torch.Tensor,
    tokens: torch.Tensor,
    ids: Sequence[str],
    *,
    dtype: ComputeDtype = "float32",
) -> None:
    """Check that a policy that is its own reference has margin 0 before its first update.

    Args:
        margin: Margins of the first step's pairs [B], nats.
        tokens: Scored tokens of both sides [B].
        ids: Their pair ids.
        dtype: What the layers compute in.

    Raises:
        NumericsError: A margin is too large: the reference was scored with other weights, tokens or
            arithmetic.
    """
    tolerance = _TOLERANCE[torch.bfloat16 if dtype == "bfloat16" else margin.dtype] * tokens
    bad = (~(margin.abs() <= tolerance)).nonzero().flatten().tolist()
    if bad:
        worst = float(margin[bad].abs().max())
        raise NumericsError(
            f"step 1: the policy is its own reference, yet {len(bad)} pairs have a margin that is "
            "not 0 "
            f"(up to {worst:.3g} nats); pairs: {', '.join(ids[i] for i in bad[:8])}"
        )
