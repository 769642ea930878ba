"""Small tokenizers and templates in the manner of published families, and how TRL's ids differ.

Tokenizers are trained on the project's own documents; templates are the published ones, as TRL
ships them or the same text in fewer words.
"""

from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

_ROOT = Path(__file__).resolve().parents[1]
_BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
# How Llama 3, and in much the same way Qwen and DeepSeek, cut a text before they merge bytes.
_LLAMA_3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# Tekken's: single digits, words cut where small letters end.
_TEKKEN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_TURNS = (
    "{%% for m in messages %%}{%% if m.role == 'user' %%}{{ %s }}{%% else %%}{{ %s }}{%% endif %%}"
    "{%% endfor %%}"
)
LLAMA_2 = _TURNS % (
    "bos_token + '[INST] ' + m.content.strip() + ' [/INST]'",
    "' ' + m.content.strip() + ' ' + eos_token",
)
NEMO = "{{ bos_token }}" + _TURNS % (
    "'[INST]' + m.content + '[/INST]'",
    "m.content + eos_token",
)
DEEPSEEK = (
    "{{ bos_token }}"
    + _TURNS % ("'<｜User｜>' + m.content", "'<｜Assistant｜>' + m.content + eos_token")
    + "{% if add_generation_prompt %}{{ '<｜Assistant｜>' }}{% endif %}"
)
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
ZEPHYR = (
    "{% for m in messages %}{{ '<|' + m.role + '|>\n' + m.content + eos_token + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)


def shipped(name: str) -> str:
    """A published template as TRL ships it."""
    return (files("trl") / "chat_templates" / f"{name}.jinja").read_text(encoding="utf-8")


def corpus() -> list[str]:
    """The lines of the project's documents."""
    found = [_ROOT / "README.md", *sorted((_ROOT / "docs").glob("*.md"))]
    return [line for file in found for line in file.read_text(encoding="utf-8").splitlines()]


def _fast(
    backend: Tokenizer, template: str, *, bos: str | None, eos: str
) -> PreTrainedTokenizerFast:
    names = {"eos_token": eos, "pad_token": eos}
    if bos is not None:
        backend.post_processor = TemplateProcessing(
            single=f"{bos} $A", special_tokens=[(bos, backend.token_to_id(bos))]
        )
        names["bos_token"] = bos
    return PreTrainedTokenizerFast(tokenizer_object=backend, chat_template=template, **names)


def byte_level(
    template: str, split: str, special: list[str], *, bos: str | None, eos: str, words: int = 1500
) -> PreTrainedTokenizerFast:
    """A tokenizer that merges bytes within the pieces of a text."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(split), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=words,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(corpus(), trainer)
    made = _fast(backend, template, bos=bos, eos=eos)
    made.add_tokens(["<think>", "</think>"])
    return made


def sentencepiece(
    template: str, special: list[str], *, bos: str, eos: str, blank: str, words: int = 1500
) -> PreTrainedTokenizerFast:
    """A SentencePiece tokenizer as `transformers` converts it.

    `blank` says where it is put in front of a text: by a normalizer (Llama 2), before the first
    piece (Zephyr's Mistral), or nowhere (Gemma).
    """
    backend = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    replace = normalizers.Replace(" ", "▁")
    if blank == "first":
        backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    elif blank == "normalizer":
        backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), replace])
    else:
        backend.normalizer = replace
    trainer = trainers.BpeTrainer(
        vocab_size=words, special_tokens=["<unk>", *special, *_BYTES], show_progress=False
    )
    backend.train_from_iterator(
        (word for line in corpus() for word in line.replace(" ", "\0 ").split("\0")), trainer
    )
    strip = [] if blank == "nowhere" else [decoders.Strip(" ", 1, 0)]
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *strip]
    )
    return _fast(backend, template, bos=bos, eos=eos)


def deepseek(template: str) -> PreTrainedTokenizerFast:
    """DeepSeek's tokens of turns."""
    special = ["<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜User｜>", "<｜Assistant｜>"]
    return byte_level(template, _LLAMA_3, special, bos=special[0], eos=special[1])


class Family(NamedTuple):
    """A family, and how TRL's scored text differs from prefine's and why.

    `stop` is the token on which its models stop. `before` and `after` are what TRL alone scores
    before the text that both score, and behind it in place of the stop token; `ours` is what
    prefine alone scores before it. `left_out` is the end of the prompt that TRL leaves out.
    `thought` begins the answers of models that reason; `masked` is TRL's template with a mask.
    """

    make: Callable[[], PreTrainedTokenizerFast]
    stop: str
    before: str = ""
    after: str = ""
    ours: str = ""
    left_out: str = ""
    why: str = ""
    thought: str = ""
    masked: str | None = None


_NEWLINE = "nothing writes the new line: generation has stopped"
FAMILIES: dict[str, Family] = {
    "SentencePiece (Llama 2)": Family(
        lambda: sentencepiece(LLAMA_2, ["<s>", "</s>"], bos="<s>", eos="</s>", blank="normalizer"),
        "</s>",
        after=" </s>",
        why="the text of the answer has no blank at its end",
    ),
    "Tekken (Mistral Nemo)": Family(
        lambda: byte_level(
            NEMO, _TEKKEN, ["<unk>", "<s>", "</s>", "[INST]", "[/INST]"], bos="<s>", eos="</s>"
        ),
        "</s>",
    ),
    "ChatML": Family(
        lambda: byte_level(
            CHATML,
            _LLAMA_3,
            ["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
            bos=None,
            eos="<|im_end|>",
        ),
        "<|im_end|>",
        after="<|im_end|>\\n",
        why=_NEWLINE,
    ),
    "Llama 3": Family(
        lambda: byte_level(
            shipped("llama3"),
            _LLAMA_3,
            ["<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"],
            bos="<|begin_of_text|>",
            eos="<|eot_id|>",
        ),
        "<|eot_id|>",
        masked="llama3_training",
    ),
    "Gemma": Family(
        lambda: sentencepiece(
            shipped("gemma"),
            ["<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"],
            bos="<bos>",
            eos="<eos>",
            blank="nowhere",
        ),
        "<end_of_turn>",
        after="<end_of_turn>\\n",
        why=_NEWLINE,
        masked="gemma_training",
    ),
    "Qwen 3": Family(
        lambda: byte_level(
            shipped("qwen3"),
            _LLAMA_3,
            ["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
            bos=None,
            eos="<|im_end|>",
        ),
        "<|im_end|>",
        before="<think>\\n\\n</think>\\n\\n",
        after="<|im_end|>\\n",
        why="the text of the answer has no empty reasoning, which the template writes before every "
        f"last answer; {_NEWLINE}",
        masked="qwen3_training",
    ),
    "Zephyr": Family(
        lambda: sentencepiece(ZEPHYR, ["<s>", "</s>"], bos="<s>", eos="</s>", blank="first"),
        "</s>",
        after="</s>\\n",
        why=_NEWLINE,
    ),
    "DeepSeek V3": Family(lambda: deepseek(DEEPSEEK), "<｜end▁of▁sentence｜>"),
    "DeepSeek R1": Family(
        lambda: deepseek(shipped("deepseek_r1_distill")),
        "<｜end▁of▁sentence｜>",
        ours="Hm.\\n</think>",
        left_out="<think>\\n",
        why="the template opens the reasoning in a prompt, and takes it out of a conversation's "
        "answers",
        thought="<think>\nHm.\n</think>\n\n",
    ),
}
