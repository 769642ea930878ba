"""From a pairs file to an adapter, and everything that reads the folder that it leaves."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import peft
import pytest
import tiny_training as tiny
import torch
import yaml
from transformers import AutoModelForCausalLM

from command import prefine
from prefine.config.training import AdapterConfig
from prefine.errors import BackendError
from prefine.losses.pairs.dpo import dpo
from prefine.models.hf.adapters import merge, save_adapter
from prefine.models.hf.backend import HfModel
from prefine.models.hf.loading import (
    load_generation_config,
    load_model,
    load_positions,
    load_tokenizer,
    weights_fingerprint,
)
from prefine.training.loop import train
from run_place import BACKEND, CONFIG, OK, PAIRS, Place

DOCUMENTED = Path(__file__).parents[2] / "docs" / "training.md"
IDS = torch.arange(20)[None]


def _logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=IDS).logits


def _check(folder: str) -> None:
    HfModel(path=folder).check_model()


def _adapted(place: Place, **changes: Any) -> Path:
    place.change(
        PAIRS
        | {"train.adapter": {"name": "lora", "rank": 4}, "train.learning_rate": 0.05}
        | changes
    )
    found = prefine("run", "run.yaml")
    assert found.code == OK, found.err
    return place.root / "run" / "model"


def test_ten_lines_and_one_command_make_an_adapter(place: Place) -> None:
    (recipe, *_) = re.findall(
        r"```yaml\n(.*?)```", DOCUMENTED.read_text(encoding="utf-8"), re.DOTALL
    )
    assert len([line for line in recipe.splitlines() if line.strip()]) <= 10
    assert "budget" in recipe and "lora" in recipe
    place.put("recipe.yaml", recipe)
    tiny = {
        "policy.path": "model",
        "train.pairs_per_step": 2,
        "train.epochs": 2,
        "train.learning_rate": 1e-2,
    }
    settings = [f"--set={name}={value}" for name, value in tiny.items()]
    found = prefine("run", "recipe.yaml", "--run-dir", "run", *settings)
    assert found.code == OK, found.err
    rows = [
        json.loads(line)
        for line in (place.root / "run" / "train_log.jsonl").read_text().splitlines()
    ]
    assert len(rows) == 4
    assert rows[-1]["margin"] > rows[0]["margin"] == pytest.approx(0, abs=1e-2)
    assert (place.root / "run" / "report.html").is_file()
    model = place.root / "run" / "model"
    assert {file.name for file in model.iterdir()} >= {
        "adapter_config.json",
        "adapter_model.safetensors",
    }
    assert not (model / "model.safetensors").exists()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_folder_loads_with_plain_libraries_and_answers_as_the_model_in_training(
    place: Place, dtype: Any
) -> None:
    stored = getattr(torch, dtype)
    AutoModelForCausalLM.from_pretrained("model", dtype=stored).save_pretrained("model")
    model = load_model("model", dtype="auto", device="cpu")
    settings = tiny.config(
        adapter=AdapterConfig(name="lora", rank=4), learning_rate=0.1, dtype=dtype
    )
    train(
        model,
        tiny.examples(),
        settings,
        loss=dpo,
        regularizer=None,
        out_dir=place.root / "run",
        run_key="k",
    )
    trained, folder = _logits(model), place.root / "adapter"
    save_adapter(model, folder, base="model")
    shutil.copy("model/tokenizer.json", folder)
    base = load_model("model", dtype="auto", device="cpu")
    assert base.dtype == stored
    assert not torch.allclose(_logits(base), trained, atol=0.05)
    for other in (
        load_model(str(folder), dtype="auto", device="cpu"),
        peft.AutoPeftModelForCausalLM.from_pretrained(folder, dtype=stored).eval(),
        peft.PeftModel.from_pretrained(base, folder).eval(),
    ):
        assert torch.equal(_logits(other), trained)
    plain = AutoModelForCausalLM.from_pretrained(folder, dtype=stored).eval()
    # transformers rounds an adapter to the dtype of the weights that it lies beside.
    assert torch.allclose(_logits(plain), trained, atol=0 if dtype == "float32" else 0.1)
    merge(model)
    assert torch.allclose(
        _logits(model).to(trained), trained, atol=1e-5 if dtype == "float32" else 0.1
    )


def test_merged_and_adapter_are_the_same_model(place: Place) -> None:
    adapter = load_model(str(_adapted(place)), dtype="float32", device="cpu")
    merged_folder = _adapted(place, **{"run_dir": "merged", "train.adapter.save": "merged"})
    merged_folder = place.root / "merged" / "model"
    assert not (merged_folder / "adapter_config.json").exists()
    merged = AutoModelForCausalLM.from_pretrained(merged_folder)
    assert set(merged.state_dict()) == set(
        AutoModelForCausalLM.from_pretrained("model").state_dict()
    )
    assert torch.allclose(_logits(merged), _logits(adapter), atol=1e-5)
    _check(str(merged_folder))


def test_the_same_training_writes_the_same_bytes(place: Place) -> None:
    first = {file.name: file.read_bytes() for file in _adapted(place).iterdir()}
    _adapted(place, run_dir="again")
    assert first == {
        file.name: file.read_bytes() for file in (place.root / "again" / "model").iterdir()
    }


def test_what_reads_model_folders_reads_an_adapter(place: Place) -> None:
    folder = str(_adapted(place))
    _check(folder)
    assert load_positions(folder) == load_positions("model") == 256
    assert (
        load_generation_config(folder).eos_token_id == load_generation_config("model").eos_token_id
    )
    assert load_tokenizer(folder).get_vocab() == load_tokenizer("model").get_vocab()
    for name in (
        "tokenizer.json",
        "tokenizer_config.json",
        "chat_template.jinja",
        "generation_config.json",
    ):
        (Path(folder) / name).unlink(missing_ok=True)
    _check(folder)
    assert load_tokenizer(folder).get_vocab() == load_tokenizer("model").get_vocab()
    assert (
        load_generation_config(folder).eos_token_id == load_generation_config("model").eos_token_id
    )


def test_the_fingerprint_covers_adapter_and_base_but_not_where_it_lies(place: Place) -> None:
    folder = _adapted(place)
    before = weights_fingerprint(str(folder))
    shutil.copytree("model", "elsewhere")
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(
        json.dumps(config | {"base_model_name_or_path": "elsewhere"})
    )
    assert weights_fingerprint(str(folder)) == before
    (folder / "adapter_config.json").write_text(json.dumps(config | {"lora_alpha": 1}))
    assert weights_fingerprint(str(folder)) != before
    (folder / "adapter_config.json").write_text(json.dumps(config))
    weights = bytearray(Path("model/model.safetensors").read_bytes())
    weights[-1] ^= 1
    Path("model/model.safetensors").write_bytes(weights)
    assert weights_fingerprint(str(folder)) != before


def test_a_lost_base_is_named_with_the_adapter(place: Place) -> None:
    folder = str(_adapted(place))
    Path("model").rename("moved")
    for read in (_check, weights_fingerprint, load_tokenizer, load_positions):
        with pytest.raises(
            BackendError, match=r"run/model.*base model .*/model is not there.*adapter_config\.json"
        ):
            read(folder)
    Path("moved").rename("model")
    (Path("model") / "model.safetensors").unlink()
    with pytest.raises(
        BackendError, match=r"run/model: its base model is not usable: .*no weights here"
    ):
        _check(folder)


def test_adapter_weights_that_are_missing_are_no_random_ones(place: Place) -> None:
    from safetensors.torch import load_file, save_file

    folder = _adapted(place)
    weights = load_file(folder / "adapter_model.safetensors")
    weights.popitem()
    save_file(weights, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    with pytest.raises(BackendError, match="1 adapter weights are missing"):
        load_model(str(folder), dtype="float32", device="cpu")


def test_a_run_with_an_adapter_is_evaluated_against_its_base(place: Place) -> None:
    settings = {
        "pair.held_out_prompts": 1,
        "evaluate": {
            "prompts": {"name": "file", "path": "prompts.jsonl"},
            "decoding": {"max_new_tokens": 4, "temperature": 1.0},
            "bootstrap_samples": 20,
        },
    }
    _adapted(place, **settings)
    metrics = json.loads((place.root / "run" / "metrics.json").read_text())["metrics"]
    names = {metric["name"] for metric in metrics}
    assert names >= {"reward_accuracy", "longer_is_better", "mean_length_after"}


def test_an_adapter_is_a_policy_and_its_own_reference(place: Place) -> None:
    """A second round starts from base and adapter together, and saves a whole model."""
    first = _adapted(place)
    place.change({"run_dir": "second", "policy.path": str(first)})
    refused = prefine("run", "run.yaml")
    assert refused.code == CONFIG
    assert "train.adapter.save" in refused.err and "use save: merged" in refused.err
    for adapter in ({"name": "lora", "rank": 2, "save": "merged"}, None):
        place.change({"run_dir": f"second-{adapter is None}", "train.adapter": adapter})
        found = prefine("run", "run.yaml")
        assert found.code == OK, found.err
        run = place.root / f"second-{adapter is None}"
        row = json.loads((run / "train_log.jsonl").read_text().splitlines()[0])
        assert row["margin"] == pytest.approx(0, abs=1e-4)
        assert (run / "model" / "config.json").is_file()


@pytest.mark.parametrize(
    ("adapter", "code", "expected"),
    [
        (
            {"name": "lora", "target_modules": ["q_prj"]},
            CONFIG,
            "no layer 'q_prj' that can carry an adapter (the output head cannot); did you mean "
            "'q_proj'? Allowed: down",
        ),
        (
            {"name": "lora", "target_modules": ["lm_head"]},
            CONFIG,
            "no layer 'lm_head' that can carry an adapter",
        ),
        ({"name": "lora", "target_modules": "q_proj"}, CONFIG, "train.adapter.target_modules"),
        ({"name": "lora", "target_modules": []}, CONFIG, "train.adapter.target_modules"),
        ({"name": "lora", "rank": 0}, CONFIG, "train.adapter.rank: Input should be greater than 0"),
        ({"name": "lora", "alpha": 0}, CONFIG, "train.adapter.alpha"),
        ({"name": "lora", "save": "both"}, CONFIG, "train.adapter.save"),
        ({"name": "dora"}, CONFIG, "train.adapter.name: Input should be 'lora'"),
        ({"name": "lora", "r": 8}, CONFIG, "train.adapter.r: unknown key"),
        ({"rank": 8}, CONFIG, "train.adapter.name"),
    ],
)
def test_an_adapter_that_cannot_be_is_refused_before_any_work(
    place: Place, adapter: dict[str, Any], code: int, expected: str
) -> None:
    place.change(PAIRS | {"train.adapter": adapter})
    found = prefine("run", "run.yaml")
    assert found.code == code
    assert expected in found.err
    assert not (place.root / "run" / "checkpoints").exists()


def test_a_policy_whose_base_is_gone_is_refused(place: Place) -> None:
    folder = _adapted(place)
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(
        json.dumps(config | {"base_model_name_or_path": "/nowhere/base"})
    )
    place.put(
        "other.yaml", yaml.safe_dump(place.config | {"policy": {"name": "hf", "path": str(folder)}})
    )
    found = prefine("run", "other.yaml", "--run-dir", "other")
    assert found.code == BACKEND
    assert "/nowhere/base" in found.err and str(folder) in found.err
