"""A model folder that says of every text what another one does, in tokens with other ids."""

import json
import shutil
from pathlib import Path

from safetensors.torch import load_file, save_file


def save_with_other_tokens(model: Path, folder: Path, *, apart: bool = False) -> Path:
    """Copy a model with the ids of its letters in another order, in tokenizer and weights alike.

    Args:
        model: A folder.
        folder: Where to.
        apart: Its tokenizer merges nothing, so that some texts have more tokens, and its logits are
            larger, so that it says something else of all of them.
    """
    shutil.copytree(model, folder)
    file = folder / "tokenizer.json"
    tokenizer = json.loads(file.read_text(encoding="utf-8"))
    ids = tokenizer["model"]["vocab"]
    letters = [token for token in sorted(ids) if len(token) == 1 and token.isascii()]
    moved = dict(zip(letters, [*letters[1:], letters[0]], strict=True))
    order = list(range(len(ids)))
    new = dict(ids)
    for token, source in moved.items():
        new[token] = ids[source]
        order[ids[source]] = ids[token]
    tokenizer["model"]["vocab"] = new
    if apart:
        tokenizer["model"]["merges"] = []
    file.write_text(json.dumps(tokenizer), encoding="utf-8")
    weights = load_file(folder / "model.safetensors")
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        rows = weights[name].clone()
        rows[: len(order)] = weights[name][order]
        weights[name] = 8 * rows if apart and name.startswith("lm_head") else rows
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder
