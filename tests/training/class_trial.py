"""A class of `transformers` on trial: a tiny model of it trained, saved and loaded again.

It goes through `prefine.train` with all weights and with LoRA. The first loss must be that of plain
rows, one at a time through the class itself, and the saved folder must give, in the class that the
policy was published as, the log-probabilities that training ended with.
"""

import math
from pathlib import Path
from typing import Any, NamedTuple

import tiny_classes
import torch

import prefine
from chat_tokenizers import chatml
from prefine.errors import ConfigError, PrefineError
from prefine.models.hf.architecture import accepted, rounding_error

PAIRS = [
    {"prompt": "Name a colour.", "chosen": "Green, as grass is.", "rejected": "I like rain"},
    {"prompt": "Count.", "chosen": "1, 2, 3", "rejected": "No. I will not do that today."},
]
BETA, GAMMA = 2.0, 1.6
SETTINGS: dict[str, Any] = {
    "loss": {"name": "simpo", "beta": BETA, "gamma": GAMMA},
    "pairs_per_step": 2,
    "max_steps": 1,
    "learning_rate": 1e-2,
    "warmup_fraction": 0.0,
}
LORA = {"name": "lora", "rank": 2}
MERGED = {**LORA, "save": "merged"}


class Result(NamedTuple):
    """What became of a class; `outcome` is empty where everything went well.

    `lora` is "mrg" where the adapter had to be merged into the weights.
    """

    name: str
    whole: str
    lora: str
    loss: float
    difference: float
    bound: float
    outcome: str


def _ids(tokenizer: Any) -> list[tuple[list[int], list[int], list[int]]]:
    """Prompt, chosen and rejected ids of each pair."""
    found = []
    for pair in PAIRS:
        turn = [{"role": "user", "content": pair["prompt"]}]
        prompt = tokenizer.apply_chat_template(turn, add_generation_prompt=True, return_dict=False)
        sides = [
            [*tokenizer(pair[side], add_special_tokens=False)["input_ids"], tiny_classes.EOS]
            for side in ("chosen", "rejected")
        ]
        found.append((list(prompt), *sides))
    return found


@torch.no_grad()
def _plain(model: Any, prompt: list[int], answer: list[int]) -> torch.Tensor:
    """The log-probabilities of an answer's tokens, by one plain row."""
    # Not through a cache: BLT has none for its own configuration.
    row = torch.tensor([prompt + answer])
    logits = model(input_ids=row, **accepted(model, use_cache=False)).logits[0].double()
    logps = logits.log_softmax(-1)[len(prompt) - 1 : -1]
    return logps.gather(1, torch.tensor(answer)[:, None]).squeeze(1)


def _bound(model: Any, logps: list[torch.Tensor]) -> float:
    """The rounding error of a token's log-probability, see `rounding_error`."""
    return rounding_error(model, torch.cat(logps).float())


def try_class(name: str, kind: str, place: Path) -> Result:
    """Train a tiny model of a class in an empty folder."""
    tokenizer = chatml(eos_token="<|im_end|>", pad_token="<|endoftext|>")
    nan = math.nan
    try:
        model = tiny_classes.tiny(kind, name)
        rows = [(_plain(model, p, a), _plain(model, p, b)) for p, a, b in _ids(tokenizer)]
    except Exception as error:  # noqa: BLE001 (code of any class)
        return Result(name, "", "", nan, nan, nan, f"not built: {line(error)}")
    folder = place / "model"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    margins = [float(chosen.mean() - rejected.mean()) for chosen, rejected in rows]
    loss = sum(math.log1p(math.exp(GAMMA - BETA * margin)) for margin in margins) / len(margins)
    bound = _bound(model, [side for sides in rows for side in sides])
    done, differences = [], []
    for adapter in (None, LORA):
        try:
            try:
                trained = _train(folder, place / ("lora" if adapter else "whole"), adapter)
            except ConfigError as error:
                if adapter is None or "use save: merged" not in str(error):
                    raise
                # PEFT would not read the adapter back; the error says what to do.
                adapter = MERGED
                trained = _train(folder, place / "merged", adapter)
        except PrefineError as error:
            return Result(
                name, *done, *[""] * (2 - len(done)), loss, nan, bound, f"refused: {error}"
            )
        # Two means of token values, each off by the bound at most.
        differences.append(abs(trained.steps[0].loss - loss) / (2 * BETA))
        again = _loaded(type(model), folder, trained.path, adapter is LORA)
        chosen = [float(_plain(again, p, a).sum()) for p, a, _ in _ids(tokenizer)]
        longest = max(len(a) for _, a, _ in _ids(tokenizer))
        moved = abs(sum(chosen) / len(chosen) - trained.final.chosen_logp) / longest
        before = sum(float(side.sum()) for side, _ in rows) / len(rows)
        assert abs(trained.final.chosen_logp - before) > 10 * bound, "nothing was trained"
        differences.append(moved)
        done.append("mrg" if adapter is MERGED else "yes")
    return Result(name, *done, loss, max(differences), bound, "")


def _train(folder: Path, run: Path, adapter: dict[str, Any] | None) -> prefine.Trained:
    return prefine.train(
        {"name": "hf", "path": str(folder), "device": "cpu"},
        PAIRS,
        output_dir=run,
        settings={**SETTINGS, "adapter": adapter},
    )


def _loaded(kind: Any, base: Path, trained: Path, adapter: bool) -> Any:
    """The trained model in the class that the policy was published as; nothing missing in it."""
    from peft import PeftModel

    model, info = kind.from_pretrained(base if adapter else trained, output_loading_info=True)
    assert not info["missing_keys"], info["missing_keys"]
    return (PeftModel.from_pretrained(model, trained) if adapter else model).eval()


def line(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:160]
