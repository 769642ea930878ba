"""References through the real command: several, and those with another tokenizer."""

import gc
import json
import math
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

import prefine as library
from chat_tokenizers import chatml
from command import prefine
from other_tokens import save_with_other_tokens
from prefine.errors import DataError
from prefine.models.hf.loading import load_model
from prefine.stages import references, train
from run_place import CONFIG, OK, PAIRS, Place, good_pairs, jsonl

LN2 = math.log(2)
DPO, MRPO = {"name": "dpo"}, {"name": "mrpo", "clip": "none"}
FIXED: dict[str, Any] = {
    "train.regularizer": None,
    "train.max_steps": 2,
    "train.schedule": "constant",
    "train.warmup_fraction": 0.0,
}


def _rows(place: Place, run: str = "run") -> list[dict[str, Any]]:
    text = (place.root / run / "train_log.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def _train(place: Place, run: str, changes: dict[str, Any]) -> list[dict[str, Any]]:
    place.change(PAIRS | FIXED | changes | {"run_dir": run})
    done = prefine("run", "run.yaml")
    assert done.code == OK, done.err
    return _rows(place, run)


def _manifest(place: Place, run: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((place.root / run / "manifest.json").read_text())
    return found


def test_references_are_scored_on_the_same_texts_one_after_the_other(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_with_other_tokens(place.root / "model", place.root / "same")
    save_with_other_tokens(place.root / "model", place.root / "other", apart=True)
    plain = _train(place, "plain", {})
    assert plain[0]["loss"] == pytest.approx(LN2, abs=1e-6)
    # The same model in other tokens says the same, alone or beside the policy at step 0.
    for run, reference, loss in (
        ("alone", "./same", DPO),
        ("beside", ["initial", "./same"], MRPO),
        ("before", [{"name": "hf", "path": "same", "weight": 0.9}, "initial"], MRPO),
    ):
        rows = _train(place, run, {"train.reference": reference, "train.loss": loss})
        for row, expected in zip(rows, plain, strict=True):
            assert row["loss"] == pytest.approx(expected["loss"], abs=1e-5), run
            assert row["margin"] == pytest.approx(expected["margin"], abs=1e-4), run
    notes = json.dumps(_manifest(place, "before"))
    assert "has another tokenizer than the policy and scores the same texts" in notes

    made: list[weakref.ref[Any]] = []

    def alone(*given: Any, **options: Any) -> Any:
        gc.collect()
        assert all(model() is None for model in made), "two models are in memory"
        made.append(weakref.ref(model := load_model(*given, **options)))
        return model

    monkeypatch.setattr(references, "load_model", alone)
    monkeypatch.setattr(train, "load_model", alone)
    cache = place.root / ".prefine" / "reference"
    kept = {path.name for path in cache.iterdir()}
    weighted = ["initial", {"name": "hf", "path": "other", "weight": 0.3}, "./same"]
    three = {"train.reference": weighted, "train.loss": MRPO}
    rows = _train(place, "three", three)
    assert abs(rows[0]["loss"] - LN2) > 1e-4
    assert rows[0]["margin"] == pytest.approx(0, abs=1e-4), "to the first reference"
    assert len(made) == 3
    assert len({path.name for path in cache.iterdir()} - kept) == 1, "each has an entry of its own"
    again = _train(place, "again", three)
    assert again == rows
    equal = _train(
        place,
        "equal",
        {**three, "train.loss": {**MRPO, "weights": "example"}}
        | {"train.reference": ["initial", "./other", "./same"]},
    )
    assert equal[0]["loss"] != rows[0]["loss"]


def _logp(folder: Path, prompt: str, answer: str) -> float:
    """The log-probability of an answer and its end, in the model's own template and tokens."""
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    asked = tokenizer.apply_chat_template(
        [{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True
    )
    before = tokenizer(asked, add_special_tokens=False).input_ids
    ids = [*tokenizer(answer, add_special_tokens=False).input_ids, tokenizer.eos_token_id]
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    with torch.no_grad():
        logps = model(torch.tensor([before + ids])).logits.log_softmax(-1)[0, len(before) - 1 : -1]
    return float(logps.gather(1, torch.tensor(ids)[:, None]).sum())


def test_a_model_of_another_family_is_asked_in_its_own_template(place: Place) -> None:
    family = place.root / "family"
    tokenizer = chatml(eos_token="<|im_end|>", pad_token="<|endoftext|>")
    tokenizer.save_pretrained(family)
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 2}
    shape = LlamaConfig(
        vocab_size=len(tokenizer),
        num_hidden_layers=1,
        eos_token_id=tokenizer.eos_token_id,
        **sizes,
    )
    torch.manual_seed(1)
    LlamaForCausalLM(shape).save_pretrained(family)
    rows = good_pairs()[:2]
    place.put("pairs.jsonl", jsonl(rows))
    beta = {"name": "dpo", "beta": 0.7}
    changes = {"train.reference": "./family", "train.loss": beta, "train.max_steps": 1}
    found = _train(place, "run", changes)[0]

    def ratio(prompt: str, answer: str) -> float:
        return _logp(place.root / "model", prompt, answer) - _logp(family, prompt, answer)

    margins = [
        ratio(row["prompt"], row["chosen"]) - ratio(row["prompt"], row["rejected"]) for row in rows
    ]
    assert found["margin"] == pytest.approx(sum(margins) / 2, abs=1e-4)
    losses = [math.log1p(math.exp(-0.7 * margin)) for margin in margins]
    assert found["loss"] == pytest.approx(sum(losses) / 2, abs=1e-4)


def test_what_a_reference_cannot_read_whole_is_left_out(place: Place) -> None:
    save_with_other_tokens(place.root / "model", place.root / "other", apart=True)
    rows = good_pairs()
    rows[1]["chosen"] = "the kettle is bright . " * 12
    place.put("pairs.jsonl", jsonl(rows))
    _train(place, "run", {"train.reference": "./other"})
    assert "not_read_whole_by_a_reference_with_other_tokens" in json.dumps(_manifest(place, "run"))
    assert _rows(place)[0]["pairs"] == 2


def test_held_out_pairs_weigh_references(place: Place) -> None:
    save_with_other_tokens(place.root / "model", place.root / "other", apart=True)
    pairs = [{**row, "prompt": f"{row['prompt']} {n}"} for n in range(3) for row in good_pairs()]
    place.put("pairs.jsonl", jsonl(pairs))
    two = {"train.reference": ["initial", "./other"], "pair.held_out_prompts": 4}
    stated = _train(place, "stated", two | {"train.loss": MRPO})
    held_out = {"train.loss": {**MRPO, "weights": "held_out"}}
    found = _train(place, "held-out", two | held_out)
    assert found[0]["loss"] != stated[0]["loss"]
    assert "heldout_pairs" in json.dumps(_manifest(place, "held-out"))
    _train(place, "evaluated", two | {"train.loss": DPO, "train.reference": "./other"})
    metrics = json.loads((place.root / "evaluated" / "metrics.json").read_text())
    assert "reward_accuracy" in {metric["name"] for metric in metrics["metrics"]}
    place.change(two | held_out | {"pair.held_out_prompts": 0, "run_dir": "none"})
    refused = prefine("run", "run.yaml")
    assert refused.code == CONFIG and "train.loss.weights: held_out" in refused.err


def test_python_takes_references_as_paths(place: Place) -> None:
    save_with_other_tokens(place.root / "model", place.root / "other")
    settings = {
        "reference": ["initial", place.root / "other"],
        "loss": {"name": "mrpo", "mode": "geometric"},
        "pairs_per_step": 2,
        "max_steps": 1,
    }
    trained = library.train(
        place.root / "model",
        good_pairs(),
        output_dir=place.root / "python",
        settings=settings,
        held_out=[],
        progress=False,
    )
    assert trained.steps[0].loss == pytest.approx(LN2, abs=1e-5)
    weighed = settings | {"loss": {"name": "mrpo", "weights": "held_out"}}
    with pytest.raises(DataError, match=r"train\.loss\.weights: no held-out pair can be"):
        library.train(
            place.root / "model",
            good_pairs(),
            output_dir=place.root / "weighed",
            settings=weighed,
            held_out=[],
            progress=False,
        )
