"""Values of the initial policy and the reference: one pass before training, kept in a file."""

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import load_file, save_file

from prefine.errors import Interrupted, NumericsError
from prefine.records import content_hash
from prefine.training.examples import Example
from prefine.training.forward import Forward
from prefine.training.head import ComputeDtype
from prefine.training.objective import sides_of
from prefine.training.table import SideLogps

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Per scored token [nats]: what other padding changes in a sum, with room to spare; a wrong reference is far outside.
_TOLERANCE: dict[torch.dtype, float] = {torch.float64: 1e-9, torch.float32: 1e-4, torch.bfloat16: 3e-2}
_VOLATILE = {"_name_or_path", "transformers_version", "architectures", "dtype", "torch_dtype", "use_cache"}


def weights_fingerprint(model: "PreTrainedModel") -> str:
    """Hash of all weights and of the settings that change what they compute."""
    settings = {key: value for key, value in model.config.to_dict().items() if key not in _VOLATILE}
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def score_sides(
    forward: Forward, examples: Sequence[Example], *, should_stop: Callable[[], bool] | None = None
) -> SideLogps:
    """Summed completion log-probabilities of all examples, in their order, without gradients.

    Raises:
        Interrupted: `should_stop` became true.
    """
    forward.model.eval()  # type: ignore[no-untyped-call]
    pairs, sides = [], []
    for rows in forward.cut(examples, range(len(examples))):
        if should_stop is not None and should_stop():
            raise Interrupted("stopped while scoring the pairs; the same command resumes")
        pairs.append(rows.pairs)
        sides.append(sides_of(rows, rows.whole, forward.values(rows).logps))
    # The inverse of a permutation is its argsort.
    restore = torch.cat(pairs).argsort().to(forward.device)
    return SideLogps(*(torch.cat(side)[restore] for side in zip(*sides, strict=True)))


def cached_sides(
    forward: Forward,
    examples: Sequence[Example],
    *,
    folder: Path,
    should_stop: Callable[[], bool] | None = None,
) -> tuple[SideLogps, bool]:
    """`score_sides`, kept in `folder` and reused while weights, compute dtype and token ids are the same.

    Returns: The values, and whether they were read instead of computed.
    """
    key = content_hash(
        weights_fingerprint(forward.model),
        forward.dtype,
        [[example.prompt_ids, example.chosen_ids, example.rejected_ids] for example in examples],
    )
    file = folder / f"{key}.safetensors"
    if file.is_file():
        stored = load_file(file)
        return SideLogps(stored["chosen"].to(forward.device), stored["rejected"].to(forward.device)), True
    sides = score_sides(forward, examples, should_stop=should_stop)
    folder.mkdir(parents=True, exist_ok=True)
    temporary = file.with_suffix(f".{os.getpid()}.tmp")
    save_file({"chosen": sides.chosen.cpu(), "rejected": sides.rejected.cpu()}, temporary)
    with temporary.open("rb") as handle:
        os.fsync(handle.fileno())
    temporary.replace(file)
    return sides, False


def check_start(
    margin: torch.Tensor, tokens: torch.Tensor, ids: Sequence[str], *, dtype: ComputeDtype = "float32"
) -> None:
    """Check that a policy that is its own reference has margin 0 before its first update.

    Args:
        margin: Margins of the first step's pairs [B], nats.
        tokens: Scored tokens of both sides [B].
        ids: Their pair ids.
        dtype: What the layers compute in.

    Raises:
        NumericsError: A margin is too large: the reference was scored with other weights, tokens or arithmetic.
    """
    tolerance = _TOLERANCE[torch.bfloat16 if dtype == "bfloat16" else margin.dtype] * tokens
    bad = (~(margin.abs() <= tolerance)).nonzero().flatten().tolist()
    if bad:
        worst = float(margin[bad].abs().max())
        raise NumericsError(
            f"step 1: the policy is its own reference, yet {len(bad)} pairs have a margin that is not 0 "
            f"(up to {worst:.3g} nats); pairs: {', '.join(ids[i] for i in bad[:8])}"
        )
