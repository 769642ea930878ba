"""The tiny judge judges: a label and the stop token after any prompt, and not always the same
label.
"""

import random
from collections import Counter
from pathlib import Path

from prefine.judges.prompts import nonce, prompt_text, render
from prefine.judges.verdicts import MIN_LABEL_MASS
from prefine.records import Completion, Message, Prompt
from tiny_judge import POSITIONS, save_tiny_judge

WORDS = (
    "the",
    "kettle",
    "is",
    "bright",
    "tea",
    "cup",
    "seven",
    "write",
    "about",
    "a",
    "A",
    "B",
    "blue",
    "small",
)


def texts(count: int) -> list[str]:
    source = random.Random(0)
    alphabet = "abcdefgh AB.\né答<|>"
    return ["".join(source.choices(alphabet, k=source.randrange(1, 300))) for _ in range(count)]


def judge_prompts(count: int) -> list[str]:
    source = random.Random(1)

    def completion(index: int) -> Completion:
        text = " ".join(source.choices(WORDS, k=source.randrange(3, 30)))
        message = Message(role="assistant", content=text)
        return Completion(
            id=str(source.random()), prompt_id="p", sample_index=index, message=message
        )

    found = []
    for _ in range(count):
        prompt, first, second = (
            Prompt.from_text(" ".join(source.choices(WORDS, k=8))),
            completion(0),
            completion(1),
        )
        code = nonce(0, prompt, first, second)
        template = prompt_text("helpfulness")
        (message,) = render(template, prompt, first, second, nonce=code, style="label", rubric=None)
        found.append(message.content)
    return found


def test_any_prompt_gets_a_label_and_the_stop_token(tiny_judge_folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_judge_folder)
    model = AutoModelForCausalLM.from_pretrained(tiny_judge_folder)
    assert model.config.max_position_embeddings == POSITIONS
    labels = [tokenizer.convert_tokens_to_ids(label) for label in "AB"]
    for contents in (texts(100), judge_prompts(30)):
        said: Counter[int] = Counter()
        for content in contents:
            turns = [{"role": "user", "content": content}]
            encoded = tokenizer.apply_chat_template(
                turns, add_generation_prompt=True, return_tensors="pt", return_dict=True
            )
            with torch.no_grad():
                made = model.generate(
                    **encoded,
                    max_new_tokens=4,
                    do_sample=False,
                    output_scores=True,
                    return_dict_in_generate=True,
                )
            answer = made.sequences[0, encoded["input_ids"].shape[1] :].tolist()
            assert len(answer) == 2
            assert answer[0] in labels
            assert answer[1] == tokenizer.eos_token_id
            assert made.scores[0].softmax(-1)[0, labels].sum() > max(0.99, MIN_LABEL_MASS)
            said[answer[0]] += 1
        assert min(said[label] for label in labels) >= len(contents) // 10


def test_the_same_seed_gives_the_same_bytes(tiny_judge_folder: Path, tmp_path: Path) -> None:
    again = save_tiny_judge(tmp_path / "again")
    for path in tiny_judge_folder.iterdir():
        assert path.read_bytes() == (again / path.name).read_bytes(), path.name
