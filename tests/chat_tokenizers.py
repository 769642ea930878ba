"""Small tokenizers, made on the spot, in the manners of those that users bring."""

from types import SimpleNamespace
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if tools %}[tools:{{ tools | length }}]{% endif %}"
    "{% if thinking is defined %}[thinking:{{ thinking }}]{% endif %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAMA3 = (
    "{{ bos_token }}{% for message in messages %}<|start_header_id|>{{ message['role'] }}<|end_header_id|>\n\n"
    "{{ message['content'] }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
ALTERNATING = (
    "{% for message in messages %}"
    "{% if message['role'] == 'system' %}{{ raise_exception('no system turns') }}{% endif %}"
    "{{ message['role'] }}: {{ message['content'] }}</s>{% endfor %}"
)


def _bytes(special: list[str], **settings: Any) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer: every text has ids and comes back unchanged."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE(vocab={token: index for index, token in enumerate(alphabet)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(special)
    if "bos_token" in settings:
        bos = settings["bos_token"]
        backend.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", special_tokens=[(bos, backend.token_to_id(bos))]
        )
    made = PreTrainedTokenizerFast(tokenizer_object=backend, extra_special_tokens=special, **settings)
    return made


def chatml(**settings: Any) -> PreTrainedTokenizerFast:
    """ChatML: a newline after the end of a turn, and an end-of-text token that does not end turns."""
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    return _bytes(special, **{"eos_token": "<|endoftext|>", "chat_template": CHATML, **settings})


def llama3() -> PreTrainedTokenizerFast:
    """A start token that the tokenizer and the template both write, and three tokens that stop generation."""
    special = ["<|begin|>", "<|end_of_text|>", "<|eom_id|>", "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>"]
    return _bytes(special, bos_token="<|begin|>", eos_token="<|end_of_text|>", chat_template=LLAMA3)


def alternating() -> PreTrainedTokenizerFast:
    """A template that refuses system turns."""
    return _bytes(["</s>"], eos_token="</s>", chat_template=ALTERNATING)


def without_template() -> PreTrainedTokenizerFast:
    """A base model's tokenizer."""
    return _bytes(["</s>"], eos_token="</s>")


def generation(eos_token_id: int | list[int] | None) -> SimpleNamespace:
    """What is read of a generation config."""
    return SimpleNamespace(eos_token_id=eos_token_id)
