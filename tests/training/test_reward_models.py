"""Reward models through the command: trained on pairs and lists, saved as the judge reads them."""

import json
import time
from pathlib import Path
from typing import Any

import architectures
import pytest
import torch
from transformers import AutoModelForCausalLM

from command import prefine, start
from prefine.models.hf.reward import RewardModel
from prefine.models.protocol import Answered
from prefine.records import Completion, Message, Prompt
from run_place import GONE, OK, PAIRS, Place, jsonl

REWARD: dict[str, Any] = {
    "train.loss": GONE,
    "train.regularizer": GONE,
    "train.reward": {"loss": "bradley_terry"},
    "train.epochs": 6,
    "train.max_steps": None,
    "train.evaluate_every": 6,
    "train.learning_rate": 1e-2,
}
LISTS = {
    "completions": GONE,
    "rank": GONE,
    "lists": {"name": "file", "path": "lists.jsonl"},
    "train.reward": {"loss": {"name": "plackett_luce", "center": 0.01}},
}
LORA = {"train.adapter": {"name": "lora", "rank": 4}}


def rows(name: str, run: str = "run") -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(run, name).read_text().splitlines()]


def good_lists() -> list[dict[str, Any]]:
    return [
        {
            "prompt": f"question {n}",
            "completions": [{"text": f"answer {n} {m}", "score": m / 2} for m in range(2 + n % 3)],
        }
        for n in range(6)
    ]


def pairs() -> list[dict[str, Any]]:
    return [
        {
            "prompt": f"question {n}",
            "chosen": f"a good answer {n}",
            "rejected": f"a bad one {n}",
            "score_gap": 1 + n % 2,
        }
        for n in range(12)
    ]


@pytest.fixture
def items(place: Place) -> Place:
    place.put("pairs.jsonl", jsonl(pairs()))
    place.put("lists.jsonl", jsonl(good_lists()))
    place.change({**REWARD, **PAIRS, "pair.held_out_prompts": 4})
    return place


def scores(texts: list[tuple[str, str]], path: str = "run/model") -> list[float]:
    """Rewards as the judge reads them from the folder."""
    judge = RewardModel(path=path, dtype="auto", device="cpu", batch_size=3, max_tokens=None)
    judge.check_model()
    answered = [
        Answered(
            Prompt.from_text(prompt),
            Completion(
                id=str(n),
                prompt_id="p",
                sample_index=n,
                message=Message(role="assistant", content=text),
            ),
        )
        for n, (prompt, text) in enumerate(texts)
    ]
    found = judge.scores(answered)
    assert all(isinstance(one, float) for one in found)
    return [float(str(one)) for one in found]


@pytest.mark.parametrize("saved", ["whole", "adapter", "merged"])
def test_the_judge_gives_the_rewards_of_training(items: Place, saved: str) -> None:
    """All training pairs by the folder: the mean margin and the loss that training wrote."""
    if saved != "whole":
        items.change({"train.adapter": {"name": "lora", "rank": 4, "save": saved}})
    items.change({"train.reward": {"loss": {"name": "bradley_terry", "margin": 0.1}}})
    assert prefine("run", "run.yaml", "--dry-run").code == OK
    result = prefine("run", "run.yaml")
    assert result.code == OK, result.err
    from prefine.run.view import RunView

    trained = list(RunView(Path("run")).pairs())
    texts = [(p.prompt.text, side.text) for p in trained for side in (p.chosen, p.rejected)]
    found = torch.tensor(scores(texts), dtype=torch.float64).view(-1, 2)
    final = json.loads(Path("run/train_final.json").read_text())["final"]
    margin = found[:, 0] - found[:, 1]
    assert final["pairs"] == len(trained) == 8
    assert final["margin"] == pytest.approx(float(margin.mean()), abs=1e-4)
    assert final["reward"] == pytest.approx(float(found.mean()), abs=1e-4)
    assert final["brier"] == pytest.approx(float((1 - margin.sigmoid()).square().mean()), abs=1e-4)
    assert not Path("run/heldout_tokens").exists(), "a reward is of an answer, not of its tokens"
    first, *_, last = rows("train_log.jsonl")
    assert last["loss"] < first["loss"] and first["tokens"] == 4
    evaluated = rows("eval_log.jsonl")
    assert [row["step"] for row in evaluated] == [0, 6, 12, 18, 24]
    assert {"accuracy", "brier", "calibration_error", "accuracy_se"} <= evaluated[-1].keys()
    # The stage `evaluate` asks the judge itself.
    metrics = {
        one["name"]: one for one in json.loads(Path("run/metrics.json").read_text())["metrics"]
    }
    held_out = evaluated[-1]
    assert metrics["reward_accuracy"]["value"] == pytest.approx(100 * held_out["accuracy"])
    assert metrics["brier_score"]["value"] == pytest.approx(held_out["brier"], abs=1e-4)
    found_error = metrics["expected_calibration_error"]["value"]
    assert found_error == pytest.approx(100 * held_out["calibration_error"], abs=1e-2)
    page = Path("run/report.html").read_text()
    assert "A reward model, trained on pairs." in page and "Brier score" in page
    for policy in ("Win rate", "log-ratio", "before and after training", "against <b>"):
        assert policy not in page
    assert "reward accuracy" in result.out and "brier score" in result.out
    card = Path("run/model/README.md").read_text()
    assert "AutoModelForSequenceClassification" in card and "bradley_terry" in card


def test_an_adapter_on_weights_in_half_precision_is_read_back(items: Place) -> None:
    """As most published models are stored; the score itself is trained and kept in float32."""
    model = AutoModelForCausalLM.from_pretrained("model", dtype=torch.bfloat16)
    model.save_pretrained("model")
    items.change({**LORA, "train.epochs": 2})
    result = prefine("run", "run.yaml")
    assert result.code == OK, result.err
    metrics = json.loads(Path("run/metrics.json").read_text())["metrics"]
    brier = next(one["value"] for one in metrics if one["name"] == "brier_score")
    # Training computes in float32, the judge in the precision of the folder.
    assert brier == pytest.approx(rows("eval_log.jsonl")[-1]["brier"], abs=0.02)


def test_lists_train_a_judge_of_another_run(items: Place) -> None:
    items.change({**LISTS, **LORA, "pairs": GONE})
    result = prefine("run", "run.yaml")
    assert result.code == OK, result.err
    page = Path("run/report.html").read_text()
    assert "Trained on" not in page and "nothing is known" not in page
    assert "comparisons of answers in held-out lists, by the higher reward" in page
    metrics = json.loads(Path("run/metrics.json").read_text())["metrics"]
    assert metrics[0]["name"] == "reward_ranking_accuracy"
    items.change({"lists": GONE, "completions": {"name": "file", "path": "answers.jsonl"}})
    items.change({"rank": {"judge": {"name": "reward", "path": "run/model"}}})
    assert prefine("sample", "run.yaml", "--run-dir", "other").code == OK
    ranked = prefine("rank", "run.yaml", "--run-dir", "other")
    assert ranked.code == OK, ranked.err


def contents(folder: str) -> dict[str, bytes]:
    logs = [Path(folder, f"{name}_log.jsonl") for name in ("train", "eval")]
    paths = [*Path(folder, "model").iterdir(), *logs, Path(folder, "train_final.json")]
    return {path.name: path.read_bytes() for path in paths}


SLOW = """
import time
from prefine.losses.protocol import declare
from prefine.losses.rewards.bradley_terry import bradley_terry

@declare(reads="rewards")
def slow(rewards):
    time.sleep(0.02)
    return bradley_terry(rewards)
"""


def test_a_killed_training_goes_on_to_the_same_bytes(items: Place) -> None:
    items.put("slow_reward_losses.py", SLOW)
    items.change({**LORA, "train.reward": {"loss": "slow_reward_losses:slow"}})
    items.change({"train.checkpoint_every": 5})
    for folder in ("run", "whole"):
        assert prefine("pair", "run.yaml", "--run-dir", folder).code == OK
    assert prefine("train", "run.yaml", "--run-dir", "whole").code == OK
    log = Path("run/train_log.jsonl")
    for moment in (3, 12):
        process = start("train", "run.yaml")
        end = time.monotonic() + 120
        while not log.exists() or log.read_bytes().count(b"\n") < moment:
            assert process.poll() is None, process.communicate()[1]
            assert time.monotonic() < end, "the step never came"
            time.sleep(0.002)
        process.kill()
        process.communicate()
    result = prefine("train", "run.yaml")
    assert result.code == OK, result.err
    assert contents("run") == contents("whole")


def read_pairs(tokenizer: Any) -> list[Any]:
    from prefine.records import PreferencePair
    from prefine.training.relations.choose import named_relation
    from prefine.training.reward_texts import ConversationReader

    reader = ConversationReader(tokenizer, max_tokens=64)
    answers = ["tea", "a kettle that is bright", "no", "write about it ."]

    def answer(n: int, text: str) -> Completion:
        message = Message(role="assistant", content=text)
        return Completion(id=f"{n} {text}", prompt_id="p", sample_index=n, message=message)

    found = []
    for n in range(6):
        # Three pairs for each of two prompts, so that texts are shared.
        prompt = Prompt.from_text(f"question {n % 2} about tea")
        chosen, rejected = answer(0, answers[n % 3]), answer(1, answers[3])
        pair = PreferencePair(prompt=prompt, chosen=chosen, rejected=rejected, weight=1.0 + n / 7)
        found.append(named_relation("rewards").read(pair, reader).item)
    return found


@pytest.mark.parametrize("tokens", [1, 64, 2048])
@pytest.mark.parametrize("shared", [True, False])
def test_the_gradient_is_that_of_the_classifier_itself(
    tiny_model_folder: Path, tokens: int, shared: bool
) -> None:
    """Packed rows and shared prompts against each conversation alone through transformers."""
    from prefine.config.training import TrainConfig
    from prefine.losses.rewards.bradley_terry import bradley_terry
    from prefine.models.hf.loading import load_model, load_tokenizer
    from prefine.models.hf.reward_head import with_reward_head
    from prefine.training.forward.passes import Forward
    from prefine.training.objective.gradient import accumulate_gradients
    from prefine.training.objective.item_table import Compared
    from prefine.training.objective.objective import Objective
    from prefine.training.reference.cache import ReferenceCache
    from prefine.training.reference.prepare import prepare_items
    from prefine.training.relations.choose import named_relation

    path = str(tiny_model_folder)
    causal = load_model(path, dtype="float32", device="cpu").double()
    causal.set_attn_implementation("eager")
    items = read_pairs(load_tokenizer(path))
    with architectures.without_float32_casts(causal):
        model = with_reward_head(causal, path, seed=3)
        forward = Forward(model, shared=shared, tokens=tokens)
        batches = forward.cut(items, range(len(items)))
        ready = prepare_items(
            named_relation("rewards", "pairs"),
            items,
            forward,
            TrainConfig(),
            frozenset(),
            ReferenceCache(Path("unused")),
            references=[None],
            compared=Compared(),
        )
        terms = accumulate_gradients(
            forward, batches, ready.table, Objective(bradley_terry), examples=items, step=1
        )
        found = {name: one.grad for name, one in model.named_parameters()}
        model.zero_grad()
        rewards = torch.stack(
            [
                model(input_ids=torch.tensor([text.prompt + text.completion[:-1]])).logits[0, 0]
                for item in items
                for text in item.texts
            ]
        ).view(-1, 2)
        weight = torch.tensor([item.weight for item in items], dtype=torch.float64)
        losses = -torch.nn.functional.logsigmoid(rewards[:, 0] - rewards[:, 1])
        ((weight * losses).sum() / weight.sum()).backward()
    assert (len(batches) > 1) == (tokens < 2048)
    torch.testing.assert_close(terms.loss, losses.detach(), rtol=0, atol=1e-12)
    for name, one in model.named_parameters():
        torch.testing.assert_close(found[name], one.grad, rtol=0, atol=1e-12, msg=name)


BAD: dict[str, tuple[dict[str, Any], int, tuple[str, ...]]] = {
    "a policy's loss": (
        {"train.loss": {"name": "ipo"}},
        2,
        ("train", "no loss", "train.reward.loss"),
    ),
    "a reference": ({"train.reference": {"name": "hf", "path": "model"}}, 2, ("no reference",)),
    "a regularizer": ({"train.regularizer": {"name": "nll"}}, 2, ("no regularizer",)),
    "an unknown loss": (
        {"train.reward": {"loss": "bradley"}},
        2,
        ("train.reward.loss", "bradley_terry"),
    ),
    "a negative margin": (
        {"train.reward": {"loss": {"name": "bradley_terry", "margin": -1.0}}},
        2,
        ("train.reward.loss.margin", "-1"),
    ),
    "answers to evaluate": (
        {"evaluate": {"prompts": {"name": "file", "path": "prompts.jsonl"}}},
        2,
        ("evaluate.prompts", "writes no answers"),
    ),
    "a metric of policies": (
        {"evaluate.metrics": [{"name": "ranking_accuracy"}]},
        2,
        ("evaluate.metrics.0", "log-probabilities"),
    ),
    "labelled answers": (
        {"pairs": GONE, "labels": {"name": "file", "path": "labels.jsonl"}},
        2,
        ("train.reward.loss", "pairs", "lists"),
    ),
}


@pytest.mark.parametrize("what", BAD)
def test_what_does_not_fit_is_refused_before_anything_is_spent(items: Place, what: str) -> None:
    changes, code, words = BAD[what]
    row = {"prompt": "q", "completion": "a", "label": True}
    items.put("labels.jsonl", jsonl([row]))
    items.change(changes)
    for command in (("config", "check"), ("run",)):
        result = prefine(*command, "run.yaml")
        assert result.code == code, (result.code, result.out, result.err)
        for word in words:
            assert word in result.err
    assert not Path("run/model").exists() and not Path("run/pairs").exists()


def test_a_margin_needs_gaps_and_a_family_needs_a_classifier(items: Place) -> None:
    bare = [{k: v for k, v in row.items() if k != "score_gap"} for row in pairs()]
    items.put("pairs.jsonl", jsonl(bare))
    items.change({"train.reward": {"loss": {"name": "bradley_terry", "margin": 1.0}}})
    result = prefine("run", "run.yaml")
    assert result.code == 3 and "pairs, row 1" in result.err and "score_gap" in result.err
    items.change({"train.reward": {"loss": "bradley_terry"}})
    config = json.loads(Path("model/config.json").read_text())
    config |= {"model_type": "granite", "architectures": ["GraniteForCausalLM"]}
    items.put("model/config.json", json.dumps(config))
    result = prefine("config", "check", "run.yaml")
    assert result.code == 2 and "policy.path" in result.err
    assert "GraniteForCausalLM" in result.err and "reward model" in result.err
