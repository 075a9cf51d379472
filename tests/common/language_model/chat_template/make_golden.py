#!/usr/bin/env python3
"""Writes golden.json: conversations as Jinja renders the models' templates and Hugging Face's tokenizers encode them.

    pip install jinja2 tiktoken tokenizers
    make_golden.py

The vocabulary is ../tokenizer/golden/small_tokenizer.json with SPECIAL tokens behind it; Llama 3 has its pre-tokenizer,
the others SmolLM2's. Templates are those that models are published with, of Llama 3.1's only what concerns messages.
"""
import json
import pathlib
import sys

import jinja2
from tokenizers import AddedToken

HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "tokenizer"))
from make_golden_families import llama3_pre_tokenizer, small, smollm2_pre_tokenizer  # noqa: E402

SPECIAL = ["<|im_start|>", "<|im_end|>", "<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<s>", "</s>"]

TEMPLATES = {
    "smollm2": "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n' }}{% endif %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
    "chatml": "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}",
    "escaped": "{% if messages[0]['role'] != 'system' %}{{ '<|im_start|>system\\nBe brief.\\nBe kind.<|im_end|>\\n' }}{% endif %}{% for message in messages %}{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}",
    "llama2": "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}{% set system_message = messages[0]['content'] %}{% else %}{% set loop_messages = messages %}{% set system_message = false %}{% endif %}{% for message in loop_messages %}{% if loop.index0 == 0 and system_message != false %}{% set content = '<<SYS>>\\n' + system_message + '\\n<</SYS>>\\n\\n' + message['content'] %}{% else %}{% set content = message['content'] %}{% endif %}{% if message['role'] == 'user' %}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}{% elif message['role'] == 'assistant' %}{{ ' ' + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}",
    "llama3": "{% set loop_messages = messages %}{% for message in loop_messages %}{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'+ message['content'] | trim + '<|eot_id|>' %}{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}",
    "llama3.1": "{{- bos_token }}\n{%- if not date_string is defined %}\n    {%- set date_string = \"26 Jul 2024\" %}\n{%- endif %}\n{%- if messages[0]['role'] == 'system' %}\n    {%- set system_message = messages[0]['content']|trim %}\n    {%- set messages = messages[1:] %}\n{%- else %}\n    {%- set system_message = \"\" %}\n{%- endif %}\n{{- \"<|start_header_id|>system<|end_header_id|>\\n\\n\" }}\n{{- \"Cutting Knowledge Date: December 2023\\n\" }}\n{{- \"Today Date: \" + date_string + \"\\n\\n\" }}\n{{- system_message }}\n{{- \"<|eot_id|>\" }}\n{%- for message in messages %}\n    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'+ message['content'] | trim + '<|eot_id|>' }}\n{%- endfor %}\n{%- if add_generation_prompt %}\n    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}\n{%- endif %}\n",
}

CONVERSATIONS = [
    [("user", "Hello")],
    [("user", "\n\n  The light 12 \n")],
    [("system", "You say the whole."), ("user", "What is a hologram?")],
    [("system", "  Be\n\nbrief. "), ("user", "He said it."), ("assistant", " She said: it's so.\n"), ("user", "In 1848? "), ("assistant", "No, 1849."), ("user", "\u65e5\u672c\U0001F600")],
    [("user", ""), ("assistant", ""), ("user", "[INST] again [/INST]")],
]


def tokenizer(pre_tokenizer):
    result = small(pre_tokenizer)
    result.add_special_tokens([AddedToken(token, normalized=False) for token in SPECIAL])
    return result


def main():
    environment = jinja2.Environment(trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=False)
    chatml, llama3 = tokenizer(smollm2_pre_tokenizer()), tokenizer(llama3_pre_tokenizer())
    cases = []
    for name, text in TEMPLATES.items():
        is_llama3 = name.startswith("llama3")
        template = environment.from_string(text)
        for conversation in CONVERSATIONS:
            messages = [{"role": role, "content": content} for role, content in conversation]
            for ask in (False, True):
                rendered = template.render(messages=messages, add_generation_prompt=ask,
                                           bos_token="<|begin_of_text|>" if is_llama3 else "<s>", eos_token="</s>")
                ids = (llama3 if is_llama3 else chatml).encode(rendered).ids
                cases.append({"template": name, "messages": conversation, "ask": ask, "ids": ids})
    lines = ",\n".join(json.dumps(case, separators=(",", ":")) for case in cases)
    templates = json.dumps(TEMPLATES)
    (HERE / "golden.json").write_text('{"special":' + json.dumps(SPECIAL) + ',\n"templates":' + templates + ',\n"cases":[\n' + lines + "\n]}\n")


if __name__ == "__main__":
    main()
