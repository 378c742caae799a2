"""Chat templates of the kinds that models come with, on a byte tokenizer."""

from __future__ import annotations

from transformers import PreTrainedTokenizerFast

from tests.helpers.tiny import byte_tokenizer

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""Qwen's and SmolLM's: no BOS, a line end behind each turn."""
LLAMA2 = (
    "{% for m in messages %}{% if m['role'] == 'user' %}<s>[INST] {{ m['content'] | trim }} [/INST]"
    "{% elif m['role'] == 'assistant' %} {{ m['content'] | trim }}</s>"
    "{% else %}{{ raise_exception('no system') }}{% endif %}{% endfor %}"
)
"""A BOS of its own, no generation prompt, the end of text ends a turn, and no system's turn."""
MARKED = (
    "{% for m in messages %}[{{ m['role'] }}]\n"
    "{% if m['role'] == 'assistant' %}{% generation %}{{ m['content'] }}\n<|im_end|>"
    "{% endgeneration %}{% else %}{{ m['content'] }}{% endif %}\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant]\n{% endif %}"
)
"""Says itself which part is the assistant's: the line end before the special token too."""
REASONING = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
    "{% if m['role'] == 'assistant' and not loop.last %}{{ m['content'].split('</think>')[-1] }}"
    "{% else %}{{ m['content'] }}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""Drops what a model thought once the conversation goes on."""


def chatting(template: str, bos: bool = False) -> PreTrainedTokenizerFast:
    """A byte tokenizer with `<|im_start|>`, `<|im_end|>` and a template."""
    tokenizer = byte_tokenizer(bos)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    tokenizer.chat_template = template
    return tokenizer
