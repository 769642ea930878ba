"""Small tokenizers, made on the spot, in the manners of those that users bring."""

from types import SimpleNamespace
from typing import Any

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] "
    "}}<|im_end|>\n{% endfor %}"
    "{% if tools %}[tools:{{ tools | length }}]{% endif %}"
    "{% if thinking is defined %}[thinking:{{ thinking }}]{% endif %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAMA3 = (
    "{{ bos_token }}{% for message in messages %}<|start_header_id|>{{ message['role'] "
    "}}<|end_header_id|>\n\n"
    "{{ message['content'] }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
ALTERNATING = (
    "{% for message in messages %}"
    "{% if message['role'] == 'system' %}{{ raise_exception('no system turns') }}{% endif %}"
    "{{ message['role'] }}: {{ message['content'] }}</s>{% endfor %}"
)
GEMMA = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{% if message.role == 'system' %}{{ raise_exception('a system turn is not known') }}{% endif "
    "%}"
    "{% if (message.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('turns must alternate') }}{% endif %}"
    "{{ '<start_of_turn>' + ('model' if message.role == 'assistant' else 'user') + '\n' }}"
    "{{ message.content | trim }}{{ '<end_of_turn>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{% if (message.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('user and assistant must take turns') }}{% endif %}"
    "{% if message.role == 'user' %}{{ '[INST] ' + message.content + ' [/INST]' }}"
    "{% else %}{{ ' ' + message.content + eos_token }}{% endif %}"
    "{% endfor %}"
)
REASONING = (
    "{% set last = namespace(user=-1) %}"
    "{% for message in messages %}"
    "{% if message.role == 'user' %}{% set last.user = loop.index0 %}{% endif %}"
    "{% endfor %}"
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message.role + '\n' }}"
    "{% set said = message.content %}"
    "{% set thought = message.reasoning_content or '' %}"
    "{% if message.role == 'assistant' and '</think>' in said %}"
    "{% set thought = said.split('</think>')[0].split('<think>')[-1] | trim %}"
    "{% set said = said.split('</think>')[-1] | trim %}"
    "{% endif %}"
    "{% if thought and loop.index0 > last.user %}{{ '<think>\n' + thought + '\n</think>\n\n' }}{% "
    "endif %}"
    "{{ said }}"
    "{% for call in message.tool_calls or [] %}{{ '\n<tool_call>\n' + (call.function | tojson) + "
    "'\n</tool_call>' }}"
    "{% endfor %}"
    "{{ '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
OPENED_REASONING = REASONING.replace(
    "assistant\n' }}{% endif %}", "assistant\n<think>\n' }}{% endif %}"
).replace("{% if thought and", "{% if false and")


def _bytes(special: list[str], **settings: Any) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer: every text has ids and comes back unchanged."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(
        models.BPE(vocab={token: index for index, token in enumerate(alphabet)}, merges=[])
    )
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(special)
    if "bos_token" in settings:
        bos = settings["bos_token"]
        backend.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", special_tokens=[(bos, backend.token_to_id(bos))]
        )
    made = PreTrainedTokenizerFast(
        tokenizer_object=backend, extra_special_tokens=special, **settings
    )
    return made


def chatml(**settings: Any) -> PreTrainedTokenizerFast:
    """ChatML: a newline after the end of a turn, and an end-of-text token that does not end
    turns.
    """
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    return _bytes(special, **{"eos_token": "<|endoftext|>", "chat_template": CHATML, **settings})


def llama3() -> PreTrainedTokenizerFast:
    """A start token that the tokenizer and the template both write, and three tokens that stop
    generation.
    """
    special = [
        "<|begin|>",
        "<|end_of_text|>",
        "<|eom_id|>",
        "<|eot_id|>",
        "<|start_header_id|>",
        "<|end_header_id|>",
    ]
    return _bytes(special, bos_token="<|begin|>", eos_token="<|end_of_text|>", chat_template=LLAMA3)


def alternating() -> PreTrainedTokenizerFast:
    """A template that refuses system turns."""
    return _bytes(["</s>"], eos_token="</s>", chat_template=ALTERNATING)


def gemma() -> PreTrainedTokenizerFast:
    """Turns of "user" and "model"; two tokens that stop generation, of which the tokenizer
    names the other one.
    """
    special = ["<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"]
    return _bytes(special, bos_token="<bos>", eos_token="<eos>", chat_template=GEMMA)


def reasoning(*, opened: bool = False) -> PreTrainedTokenizerFast:
    """Forgets the reasoning of earlier turns; `opened` also begins the reasoning for the model,
    and forgets all.
    """
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    template = OPENED_REASONING if opened else REASONING
    made = _bytes(special, eos_token="<|im_end|>", chat_template=template)
    made.add_tokens(["<think>", "</think>", "<tool_call>", "</tool_call>"])
    return made


def mistral() -> PreTrainedTokenizerFast:
    """In the manner of SentencePiece: a space before every text, characters it does not know as
    bytes.
    """
    special = ["<unk>", "<s>", "</s>", "[INST]", "[/INST]"]
    tokens = [*special, *(f"<0x{byte:02X}>" for byte in range(256)), "▁", *map(chr, range(33, 127))]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    words = ["▁a", "▁an", "▁t", "he", "▁the"]
    merges = [("▁", "a"), ("▁a", "n"), ("▁", "t"), ("h", "e"), ("▁t", "he")]
    vocabulary |= {word: len(vocabulary) + index for index, word in enumerate(words)}
    backend = Tokenizer(
        models.BPE(
            vocab=vocabulary, merges=merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True
        )
    )
    backend.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    backend.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    backend.add_special_tokens(special)
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        chat_template=MISTRAL,
    )


def without_template() -> PreTrainedTokenizerFast:
    """A base model's tokenizer."""
    return _bytes(["</s>"], eos_token="</s>")


def generation(eos_token_id: int | list[int] | None) -> SimpleNamespace:
    """What is read of a generation config."""
    return SimpleNamespace(eos_token_id=eos_token_id)
