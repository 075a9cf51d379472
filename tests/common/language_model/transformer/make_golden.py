#!/usr/bin/env python3
"""Writes golden_gpt2.safetensors, golden_gpt2.json and golden_logits.f32 beside itself: a small GPT-2 with random weights
and its logits, computed with PyTorch in double precision (Debian: python3-torch). Written from the published description
of the model, not from this repository's code.

    python3 tests/common/language_model/transformer/make_golden.py
"""
import json
import math
import pathlib
import struct

import torch

VOCABULARY, CONTEXT, WIDTH, LAYERS, HEADS, EPSILON = 61, 80, 32, 2, 2, 1e-5
TOKENS = 75  # three tiles of 32, the last one not full


def make_weights():
    torch.manual_seed(20)
    weights = {}

    def tensor(name, *shape, scale, mean=0.0):
        weights[name] = torch.randn(*shape) * scale + mean

    tensor("wte.weight", VOCABULARY, WIDTH, scale=0.5)
    tensor("wpe.weight", CONTEXT, WIDTH, scale=0.2)
    for layer in range(LAYERS):
        at = f"h.{layer}."
        tensor(at + "ln_1.weight", WIDTH, scale=0.3, mean=1.0)
        tensor(at + "ln_1.bias", WIDTH, scale=0.3)
        tensor(at + "attn.c_attn.weight", WIDTH, 3 * WIDTH, scale=0.25)
        tensor(at + "attn.c_attn.bias", 3 * WIDTH, scale=0.3)
        tensor(at + "attn.c_proj.weight", WIDTH, WIDTH, scale=0.2)
        tensor(at + "attn.c_proj.bias", WIDTH, scale=0.1)
        tensor(at + "ln_2.weight", WIDTH, scale=0.3, mean=1.0)
        tensor(at + "ln_2.bias", WIDTH, scale=0.3)
        tensor(at + "mlp.c_fc.weight", WIDTH, 4 * WIDTH, scale=0.2)
        tensor(at + "mlp.c_fc.bias", 4 * WIDTH, scale=0.2)
        tensor(at + "mlp.c_proj.weight", 4 * WIDTH, WIDTH, scale=0.1)
        tensor(at + "mlp.c_proj.bias", WIDTH, scale=0.1)
    tensor("ln_f.weight", WIDTH, scale=0.3, mean=1.0)
    tensor("ln_f.bias", WIDTH, scale=0.3)
    return weights


def logits(weights, tokens):
    w = {name: value.double() for name, value in weights.items()}
    count = len(tokens)

    def normalise(x, at):
        return torch.nn.functional.layer_norm(x, (WIDTH,), w[at + ".weight"], w[at + ".bias"], EPSILON)

    def linear(x, at):
        return x @ w[at + ".weight"] + w[at + ".bias"]

    def split(x):
        return x.view(count, HEADS, WIDTH // HEADS).transpose(0, 1)

    x = w["wte.weight"][tokens] + w["wpe.weight"][:count]
    mask = torch.full((count, count), -math.inf, dtype=torch.double).triu(1)
    for layer in range(LAYERS):
        at = f"h.{layer}."
        q, k, v = (split(part) for part in linear(normalise(x, at + "ln_1"), at + "attn.c_attn").split(WIDTH, dim=1))
        attention = torch.softmax(q @ k.transpose(1, 2) / math.sqrt(WIDTH // HEADS) + mask, dim=-1) @ v
        x = x + linear(attention.transpose(0, 1).reshape(count, WIDTH), at + "attn.c_proj")
        inner = linear(normalise(x, at + "ln_2"), at + "mlp.c_fc")
        inner = 0.5 * inner * (1 + torch.tanh(math.sqrt(2 / math.pi) * (inner + 0.044715 * inner**3)))
        x = x + linear(inner, at + "mlp.c_proj")
    return normalise(x, "ln_f") @ w["wte.weight"].T


def write_safetensors(path, weights):
    header, data = {}, b""
    for name in sorted(weights):
        values = weights[name].float().contiguous().numpy().astype("<f4").tobytes()
        header[name] = {
            "dtype": "F32",
            "shape": list(weights[name].shape),
            "data_offsets": [len(data), len(data) + len(values)],
        }
        data += values
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def main():
    folder = pathlib.Path(__file__).parent
    weights = make_weights()
    tokens = [(7 * i * i + 3 * i + 5) % VOCABULARY for i in range(TOKENS)]
    result = logits(weights, tokens)
    config = {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "activation_function": "gelu_new",
        "n_embd": WIDTH,
        "n_head": HEADS,
        "n_layer": LAYERS,
        "n_positions": CONTEXT,
        "n_ctx": CONTEXT,
        "layer_norm_epsilon": EPSILON,
        "vocab_size": VOCABULARY,
    }
    write_safetensors(folder / "golden_gpt2.safetensors", weights)
    (folder / "golden_gpt2.json").write_text(json.dumps(config, indent=2) + "\n")
    (folder / "golden_logits.f32").write_bytes(result.float().numpy().astype("<f4").tobytes())
    print(f"logits {tuple(result.shape)}, standard deviation {result.std():.3f}, largest {result.abs().max():.3f}")


if __name__ == "__main__":
    main()
