"""Families of models that are not simply a stack of layers behind `base_model`."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny_classes
import torch
import transformers
from class_trial import LORA, PAIRS, SETTINGS, try_class
from safetensors.torch import load_file
from torch import nn

import prefine
from chat_tokenizers import chatml
from prefine.errors import ConfigError, PrefineError
from prefine.models.hf.architecture import positions, text_part
from prefine.models.hf.backend import HfModel
from prefine.models.hf.loading import load_model
from prefine.training.forward.layers import layers_before_head
from prefine.training.forward.passes import Forward
from prefine.training.forward.token_values import LOGPS_ONLY

TRIED = {
    "OPTForCausalLM": "opt",  # its forward never calls `base_model`
    "BartForCausalLM": "bart",  # nor does that of a decoder taken out of an encoder-decoder
    "Llama4ForCausalLM": "llama4_text",  # it has no `base_model`, and its routers are linear layers
    "GlmMoeDsaForCausalLM": "glm_moe_dsa",  # attention reads a mask that packed rows do not have
    "RobertaForCausalLM": "roberta",  # counts positions from behind the padding token's number
    "MambaForCausalLM": "mamba",  # PEFT refuses some of its linear layers
    "Qwen3_5ForConditionalGeneration": "qwen3_5",  # language model beside a vision tower
}


@pytest.mark.parametrize("name", TRIED)
def test_a_family_trains_as_plain_rows_and_loads_in_its_own_class(
    name: str, tmp_path: Path
) -> None:
    result = try_class(name, TRIED[name], tmp_path)
    assert (result.outcome, result.whole, result.lora) == ("", "yes", "yes")
    assert result.difference <= result.bound


@pytest.mark.parametrize(
    ("name", "kind", "found"),
    [
        ("LlamaForCausalLM", "llama", "model"),
        ("OPTForCausalLM", "opt", "model.decoder"),
        # Its head reads streams of its own, so the model's own logits are taken.
        ("ProphetNetForCausalLM", "prophetnet", ""),
        ("Llama4ForConditionalGeneration", "llama4", "language_model.model"),
        ("Gemma3ForConditionalGeneration", "gemma3", "model"),
        ("BertLMHeadModel", "bert", "bert"),
    ],
)
def test_the_layers_are_the_module_whose_output_the_head_reads(
    name: str, kind: str, found: str
) -> None:
    model = tiny_classes.tiny(kind, name)
    assert layers_before_head(model) is model.get_submodule(found)


def test_logits_stand_for_hidden_states_where_a_head_reads_more() -> None:
    model = tiny_classes.tiny("prophetnet", "ProphetNetForCausalLM")
    forward = Forward(model, shared=False)
    ids = torch.randint(3, 250, (1, 12), generator=torch.Generator().manual_seed(0))
    expected = model(input_ids=ids).logits[0].log_softmax(-1)
    hidden = forward.last_hidden(ids)[0]
    found = forward.head.values(hidden[:-1], ids[0, 1:], LOGPS_ONLY).logps
    torch.testing.assert_close(found, expected[:-1].gather(1, ids[0, 1:, None]).squeeze(1))


def _save(folder: Path, name: str, kind: str, **changes: Any) -> Path:
    """A model folder of a class, with changes to its config.json."""
    tiny_classes.tiny(kind, name).save_pretrained(folder)
    chatml(eos_token="<|im_end|>", pad_token="<|endoftext|>").save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def _train(folder: Path, run: Path, **settings: Any) -> Path:
    policy = {"name": "hf", "path": str(folder), "device": "cpu"}
    return prefine.train(policy, PAIRS, output_dir=run, settings={**SETTINGS, **settings}).path


@pytest.fixture(scope="module")
def wrapper(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wrapper") / "model"
    _save(folder, "Gemma3ForConditionalGeneration", "gemma3")
    (folder / "preprocessor_config.json").write_text('{"image_processor_type": "mine"}')
    return folder


def test_a_wrapper_keeps_its_tower_and_its_processor(wrapper: Path, tmp_path: Path) -> None:
    model = _train(wrapper, tmp_path / "run")
    before, after = (load_file(path / "model.safetensors") for path in (wrapper, model))
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert before.keys() == after.keys()
    towers = {name for name in before if "vision" in name or "projector" in name}
    assert towers and not moved & towers
    assert len(moved) > len(before.keys() - towers) * 0.9
    assert json.loads((model / "config.json").read_text())["architectures"] == [
        "Gemma3ForConditionalGeneration"
    ]
    assert (model / "preprocessor_config.json").read_text() == '{"image_processor_type": "mine"}'


def test_a_wrappers_adapter_is_on_its_language_model_only(wrapper: Path, tmp_path: Path) -> None:
    model = _train(wrapper, tmp_path / "run", adapter=LORA)
    names = {
        name.removeprefix("base_model.model.").partition(".lora_")[0]
        for name in load_file(model / "adapter_model.safetensors")
    }
    published = transformers.Gemma3ForConditionalGeneration.from_pretrained(wrapper)
    language: Any = published.model.language_model
    expected = {
        f"model.language_model.{name}"
        for name, module in language.named_modules()
        if isinstance(module, nn.Linear)
    }
    assert names == expected


def test_what_text_passes_through_is_all_of_a_model_without_a_wrapper() -> None:
    model = tiny_classes.tiny("llama", "LlamaForCausalLM")
    assert text_part(model) == [model]


@pytest.mark.parametrize(
    ("name", "kind", "expected"),
    [
        # 512 rows in all; the padding token is number 256.
        ("RobertaForCausalLM", "roberta", 512 - 257),
        ("BertLMHeadModel", "bert", 512),
        ("Gemma3ForConditionalGeneration", "gemma3", 512),
        ("WhisperForCausalLM", "whisper", 512),
        ("BloomForCausalLM", "bloom", None),
        ("XLNetLMHeadModel", "xlnet", None),
    ],
)
def test_the_longest_row(name: str, kind: str, expected: int | None) -> None:
    assert positions(tiny_classes.tiny(kind, name)) == expected


def test_a_pair_that_a_wrapper_cannot_read_is_refused(wrapper: Path, tmp_path: Path) -> None:
    long = [PAIRS[0] | {"prompt": "word " * 110}]
    with pytest.raises(ConfigError, match=r"takes 5\d\d positions, the model reads 512"):
        prefine.train(
            {"name": "hf", "path": str(wrapper), "device": "cpu"},
            long,
            output_dir=tmp_path / "run",
            settings=SETTINGS,
        )
    # In a configuration it is found before anything is loaded.
    (tmp_path / "pairs.jsonl").write_text(json.dumps(long[0]))
    with pytest.raises(ConfigError, match=r"pairs.jsonl, line 1: takes 5\d\d positions") as refused:
        _check(wrapper, tmp_path, pairs="pairs.jsonl", **SETTINGS)
    assert f"{wrapper} reads 512" in str(refused.value)


def _rewrite(name: str, content: Callable[[dict[str, Any]], dict[str, Any]]) -> Any:
    def change(folder: Path) -> None:
        file = folder / name
        file.write_text(json.dumps(content(json.loads(file.read_text()))))

    return change


def _many_tokens(folder: Path) -> None:
    tokenizer = chatml()
    tokenizer.add_tokens([f"<{n}>" for n in range(90)])
    tokenizer.save_pretrained(folder)


BNB = {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}}
UNUSABLE = {
    "encoder-decoder": ("T5ForConditionalGeneration", "t5", None, {}, "is an encoder-decoder"),
    "encoder": ("BertForMaskedLM", "bert", None, {}, "BertForMaskedLM is no causal language model"),
    "both ways": (
        "BertLMHeadModel",
        "bert",
        _rewrite("config.json", lambda config: config | {"is_decoder": False}),
        {},
        "attends in both directions",
    ),
    "classifier": (
        "LlamaForSequenceClassification",
        "llama",
        None,
        {},
        "LlamaForSequenceClassification is no causal language model",
    ),
    "images needed": (
        "Blip2ForConditionalGeneration",
        "blip-2",
        None,
        {},
        "cannot read text alone (it needs pixel_values)",
    ),
    "quantized": (
        "LlamaForCausalLM",
        "llama",
        _rewrite("config.json", lambda config: config | BNB),
        {},
        "quantized (bitsandbytes), and training quantized weights is not supported",
    ),
    "refused by PEFT": (
        "MambaForCausalLM",
        "mamba",
        None,
        {"adapter": {**LORA, "target_modules": ["in_proj", "out_proj"]}},
        "has no layer 'out_proj' that can carry an adapter",
    ),
    "vocabulary": (
        "LlamaForCausalLM",
        "llama",
        _many_tokens,
        {},
        "enlarge the model once with model.resize_token_embeddings(",
    ),
}


@pytest.mark.parametrize("case", UNUSABLE)
def test_a_model_that_cannot_be_trained_is_refused_before_anything_is_read(
    case: str, tmp_path: Path
) -> None:
    name, kind, change, settings, expected = UNUSABLE[case]
    folder = _save(tmp_path / "model", name, kind)
    if change is not None:
        change(folder)
    with pytest.raises(PrefineError) as refused:
        _check(folder, tmp_path, **settings)
    message = str(refused.value)
    assert expected in message and str(folder) in message
    assert len(message) < 500 and "\n" not in message
    # The same at the start of a run, whose pairs are not there to be read.
    assert not (tmp_path / "run").exists()


def _check(folder: Path, place: Path, pairs: str = "not-there.jsonl", **settings: Any) -> None:
    """What `config check`, `--dry-run` and `run` do first; pairs not there would be a DataError."""
    from prefine.config.sections import RunConfig
    from prefine.stages.check import check

    config = {
        "run_dir": str(place / "run"),
        "policy": {"name": "hf", "path": str(folder)},
        "pairs": {"name": "file", "path": str(place / pairs)},
        "train": settings,
    }
    check(RunConfig.model_validate(config))


def test_a_model_that_looks_ahead_is_refused(tmp_path: Path) -> None:
    folder = _save(tmp_path / "model", "XLNetLMHeadModel", "xlnet")
    with pytest.raises(ConfigError, match="XLNetLMHeadModel looks ahead"):
        _train(folder, tmp_path / "run")


def test_a_reference_must_read_the_policys_tokens_where_the_loss_does(tmp_path: Path) -> None:
    policy = _save(tmp_path / "model", "LlamaForCausalLM", "llama")
    reference = shutil.copytree(policy, tmp_path / "reference")
    settings = {"reference": {"name": "hf", "path": str(reference), "device": "cpu"}}
    loss = {"loss": {"name": "wpo"}}
    _train(policy, tmp_path / "same", **settings, **loss)
    file = reference / "tokenizer.json"
    tokenizer = json.loads(file.read_text())
    ids = tokenizer["model"]["vocab"]
    ids["a"], ids["b"] = ids["b"], ids["a"]
    file.write_text(json.dumps(tokenizer))
    with pytest.raises(ConfigError, match=r"its tokens have other ids"):
        _train(policy, tmp_path / "other", **settings, **loss)
    with pytest.raises(ConfigError, match=r"its tokens have other ids"):
        _check(policy, tmp_path, **settings, **loss)
    # A loss of whole answers compares texts; one token too many is none that it could score.
    _train(policy, tmp_path / "whole", **settings, loss={"name": "dpo"})


def test_a_token_to_stop_on_that_is_outside_the_vocabulary_stops_nothing(tmp_path: Path) -> None:
    folder = _save(tmp_path / "model", "LlamaForCausalLM", "llama")
    settings = {"eos_token_id": [50256, tiny_classes.EOS], "bos_token_id": None}
    (folder / "generation_config.json").write_text(json.dumps(settings))
    HfModel(path=str(folder)).check_model()
    _train(folder, tmp_path / "some")
    settings["eos_token_id"] = 50256
    (folder / "generation_config.json").write_text(json.dumps(settings))
    # What is left is the tokenizer's own.
    _train(folder, tmp_path / "none")
    rows = [
        (tmp_path / run / "train_log.jsonl").read_text().splitlines()[0] for run in ("some", "none")
    ]
    assert rows[0] == rows[1]


@pytest.mark.parametrize("tied", [False, True])
def test_an_adapter_with_added_tokens_is_loaded_with_them(tied: bool, tmp_path: Path) -> None:
    import peft

    folder = _save(tmp_path / "base", "LlamaForCausalLM", "llama", tie_word_embeddings=tied)
    model: Any = transformers.AutoModelForCausalLM.from_pretrained(folder)
    added = [f"<{n}>" for n in range(70)]
    tokenizer = chatml(eos_token="<|im_end|>", pad_token="<|endoftext|>")
    tokenizer.add_tokens(added)
    model.resize_token_embeddings(len(tokenizer))
    ends = ["embed_tokens"] if tied else ["embed_tokens", "lm_head"]
    adapted = peft.get_peft_model(
        model, peft.LoraConfig(target_modules=["q_proj"], modules_to_save=ends)
    )
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1)
    adapted.save_pretrained(tmp_path / "adapter")
    tokenizer.save_pretrained(tmp_path / "adapter")
    HfModel(path=str(tmp_path / "adapter")).check_model()
    ids = torch.tensor([[5, len(tokenizer) - 1, 7]])
    again = load_model(str(tmp_path / "adapter"), dtype="float32", device="cpu")
    torch.testing.assert_close(again(input_ids=ids).logits, adapted(input_ids=ids).logits)
