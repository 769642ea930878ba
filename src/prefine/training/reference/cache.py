"""Log-probabilities under the initial policy and the reference, computed once and kept in files."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float
from safetensors.torch import load_file, save_file
from torch import Tensor

from prefine.atomic import write_atomically
from prefine.records import content_hash
from prefine.training.distributed.processes import from_main, is_main
from prefine.training.forward.passes import Forward
from prefine.training.forward.token_values import ItemTokens, TokenValues, concatenate_items, slices
from prefine.training.items import TokenizedItem
from prefine.training.reference.scoring import score_tokens

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_PART = 256
_VOLATILE = {
    "_name_or_path",
    "transformers_version",
    "architectures",
    "dtype",
    "torch_dtype",
    "use_cache",
}


@dataclass
class ReferenceCache:
    """Token log-probabilities in a folder, shared by all trainings that ask the same.

    Items are scored and kept in parts of 256, each whole or not at all: an interrupted pass
    resumes after its last part, and the values read are to the bit those that would be computed.
    A part's path has the hash of the weights, of how they compute (dtype, batch limit) and of the
    token ids.

    Args:
        folder: Made if it is missing; None keeps nothing and reads nothing.
        should_stop: Asked before every pass; if true, Interrupted is raised.
        reused: Whether all values so far were read instead of computed.
    """

    folder: Path | None
    should_stop: Callable[[], bool] | None = None
    reused: bool = True

    def tokens(self, forward: Forward, examples: Sequence[TokenizedItem]) -> ItemTokens:
        """Return the values of `score_tokens`, read where they are kept and computed elsewhere."""
        if self.folder is None:
            return score_tokens(forward, examples, should_stop=self.should_stop)
        settings = _settings_hash(forward)
        parts: list[ItemTokens] = []
        for part in slices(len(examples), _PART):
            file = self.folder / settings / f"{ids_hash(examples[part])}.safetensors"
            if from_main(file.is_file()):
                parts.append(_load(file, forward, examples[part]))
                continue
            self.reused = False
            limit = forward.tokens
            try:
                scored = score_tokens(forward, examples[part], should_stop=self.should_stop)
            finally:
                # If memory is short, batches are smaller in this part only.
                forward.tokens = limit
            parts.append(scored)
            # A value that is not finite ends this training; kept, it would end every later one.
            if is_main() and bool(scored.values.logps.isfinite().all()):
                _keep(scored, file)
        return concatenate_items(parts)

    def ches(self, forward: Forward, pairs: Sequence[TokenizedItem]) -> Float[Tensor, " n"]:
        """Return the values of `ches_of`, read where they are kept and computed elsewhere."""
        # Here and not above: few trainings choose pairs by it.
        from prefine.training.reference.ches import ches_of

        if self.folder is None:
            return ches_of(forward, pairs, should_stop=self.should_stop)
        file = self.folder / _settings_hash(forward) / f"ches-{ids_hash(pairs)}.safetensors"
        if from_main(file.is_file()):
            return load_file(file)["ches"]
        limit = forward.tokens
        try:
            scores = ches_of(forward, pairs, should_stop=self.should_stop)
        finally:
            forward.tokens = limit
        if is_main() and bool(scores.isfinite().all()):
            write_atomically(file, lambda temporary: save_file({"ches": scores}, temporary))
        return scores


def _settings_hash(forward: Forward) -> str:
    """Hash of a model's weights and of how they compute."""
    found = content_hash(
        weights_fingerprint(forward.model),
        forward.dtype,
        forward.shared,
        forward.tokens,
        # Each prompt once stood behind all of its pair's completions.
        "behind each completion" if forward.score_prompts else False,
    )
    return found[:16]


def weights_fingerprint(model: "PreTrainedModel") -> str:
    """Hash of all weights and of the settings that change what they compute."""
    settings = {key: value for key, value in model.config.to_dict().items() if key not in _VOLATILE}
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _keep(tokens: ItemTokens, file: Path) -> None:
    counts, lengths = tokens.counts, tokens.lengths
    if bool((counts == counts[0]).all()):
        # A row for each item, as pairs have always been kept.
        lengths = lengths.view(len(counts), -1)
    tensors = {"logps": tokens.values.logps.cpu(), "lengths": lengths}
    write_atomically(file, lambda temporary: save_file(tensors, temporary))


def _load(file: Path, forward: Forward, examples: Sequence[TokenizedItem]) -> ItemTokens:
    stored = load_file(file)
    return ItemTokens(
        TokenValues(stored["logps"].to(forward.device)),
        stored["lengths"].view(-1, 2 if forward.score_prompts else 1),
        torch.tensor([len(example.texts) for example in examples]),
    )


def ids_hash(examples: Sequence[TokenizedItem]) -> str:
    """Hash of all token ids, and of which of them are scored."""
    digest = hashlib.sha256()
    for example in examples:
        texts = example.texts
        if len(texts) != 2:
            digest.update(b"completions %d:" % len(texts))
        prompt, *others = (text.prompt for text in texts)
        for ids in (prompt, *(text.completion for text in texts)):
            digest.update(_bytes(ids))
        if all(other == prompt for other in others):
            digest.update(b"none")
        else:
            for other in others:
                digest.update(_bytes(other))
        for text in texts:
            if text.turns:
                digest.update(b"turns " + _bytes([end for run in text.turns for end in run]))
    return digest.hexdigest()[:32]


def _bytes(ids: Sequence[int]) -> bytes:
    return b"%d:" % len(ids) + np.asarray(ids, dtype="<i8").tobytes()
