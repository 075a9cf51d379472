#!/usr/bin/env python3
"""Writes golden_llama.safetensors, two configurations and their logits (golden_llama_*.json, *.f32) beside itself: a small
Llama with random weights, computed with PyTorch in double precision (Debian: python3-torch). Written from the published
description of the model, not from this repository's code. "scaled" has a head of its own and the frequency scaling of
Llama 3, "tied" the embedding as its head and plain frequencies.

    python3 tests/common/language_model/transformer/make_golden_llama.py
"""
import json
import math
import pathlib

import torch
from make_golden import write_safetensors

VOCABULARY, CONTEXT, WIDTH, LAYERS, HEADS, KEY_HEADS, INNER, EPSILON, THETA = 61, 80, 32, 2, 4, 2, 48, 1e-5, 500.0
HEAD = WIDTH // HEADS
TOKENS = 75
SCALING = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
           "original_max_position_embeddings": 32}


def make_weights():
    torch.manual_seed(21)
    weights = {}

    def tensor(name, *shape, scale, mean=0.0):
        weights[name] = torch.randn(*shape) * scale + mean

    tensor("model.embed_tokens.weight", VOCABULARY, WIDTH, scale=0.5)
    tensor("lm_head.weight", VOCABULARY, WIDTH, scale=0.5)
    for layer in range(LAYERS):
        at = f"model.layers.{layer}."
        tensor(at + "input_layernorm.weight", WIDTH, scale=0.3, mean=1.0)
        tensor(at + "self_attn.q_proj.weight", HEADS * HEAD, WIDTH, scale=0.25)
        tensor(at + "self_attn.k_proj.weight", KEY_HEADS * HEAD, WIDTH, scale=0.25)
        tensor(at + "self_attn.v_proj.weight", KEY_HEADS * HEAD, WIDTH, scale=0.25)
        tensor(at + "self_attn.o_proj.weight", WIDTH, WIDTH, scale=0.2)
        tensor(at + "post_attention_layernorm.weight", WIDTH, scale=0.3, mean=1.0)
        tensor(at + "mlp.gate_proj.weight", INNER, WIDTH, scale=0.2)
        tensor(at + "mlp.up_proj.weight", INNER, WIDTH, scale=0.2)
        tensor(at + "mlp.down_proj.weight", WIDTH, INNER, scale=0.2)
    tensor("model.norm.weight", WIDTH, scale=0.3, mean=1.0)
    return weights


def frequencies(scaling):
    plain = [THETA ** (-2 * i / HEAD) for i in range(HEAD // 2)]
    if scaling is None:
        return plain
    result = []
    for frequency in plain:
        wavelength = 2 * math.pi / frequency
        longest, shortest = (scaling["original_max_position_embeddings"] / scaling[f"{end}_freq_factor"]
                             for end in ("low", "high"))
        if wavelength < shortest:
            result.append(frequency)
        elif wavelength > longest:
            result.append(frequency / scaling["factor"])
        else:
            smooth = (scaling["original_max_position_embeddings"] / wavelength - scaling["low_freq_factor"]) / (
                scaling["high_freq_factor"] - scaling["low_freq_factor"])
            result.append((1 - smooth) * frequency / scaling["factor"] + smooth * frequency)
    return result


def logits(weights, tokens, scaling, head):
    w = {name: value.double() for name, value in weights.items()}
    count = len(tokens)
    # As complex numbers: the halves of a head are real and imaginary parts.
    angles = torch.outer(torch.arange(count).double(), torch.tensor(frequencies(scaling), dtype=torch.double))
    turn = torch.polar(torch.ones_like(angles), angles)[:, None, :]

    def normalise(x, at):
        return x / torch.sqrt((x * x).mean(dim=1, keepdim=True) + EPSILON) * w[at]

    def rotate(x, heads):
        x = x.view(count, heads, HEAD)
        turned = torch.complex(x[..., : HEAD // 2].contiguous(), x[..., HEAD // 2 :].contiguous()) * turn
        return torch.cat([turned.real, turned.imag], dim=2)

    x = w["model.embed_tokens.weight"][tokens]
    for layer in range(LAYERS):
        at = f"model.layers.{layer}."
        normal = normalise(x, at + "input_layernorm.weight")
        q = rotate(normal @ w[at + "self_attn.q_proj.weight"].T, HEADS)
        k = rotate(normal @ w[at + "self_attn.k_proj.weight"].T, KEY_HEADS)
        v = (normal @ w[at + "self_attn.v_proj.weight"].T).view(count, KEY_HEADS, HEAD)
        out = torch.zeros(count, HEADS, HEAD, dtype=torch.double)
        for h in range(HEADS):
            shared = h * KEY_HEADS // HEADS
            for i in range(count):
                scores = k[: i + 1, shared] @ q[i, h] / math.sqrt(HEAD)
                out[i, h] = torch.softmax(scores, dim=0) @ v[: i + 1, shared]
        x = x + out.reshape(count, WIDTH) @ w[at + "self_attn.o_proj.weight"].T
        normal = normalise(x, at + "post_attention_layernorm.weight")
        gate = normal @ w[at + "mlp.gate_proj.weight"].T
        inner = gate * torch.sigmoid(gate) * (normal @ w[at + "mlp.up_proj.weight"].T)
        x = x + inner @ w[at + "mlp.down_proj.weight"].T
    return normalise(x, "model.norm.weight") @ w[head].T


def main():
    folder = pathlib.Path(__file__).parent
    weights = make_weights()
    write_safetensors(folder / "golden_llama.safetensors", weights)
    tokens = [(7 * i * i + 3 * i + 5) % VOCABULARY for i in range(TOKENS)]
    for name, scaling, head in (("scaled", SCALING, "lm_head.weight"), ("tied", None, "model.embed_tokens.weight")):
        config = {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "hidden_act": "silu",
            "hidden_size": WIDTH,
            "intermediate_size": INNER,
            "max_position_embeddings": CONTEXT,
            "num_attention_heads": HEADS,
            "num_key_value_heads": KEY_HEADS,
            "num_hidden_layers": LAYERS,
            "rms_norm_eps": EPSILON,
            "rope_theta": THETA,
            "rope_scaling": scaling,
            "tie_word_embeddings": name == "tied",
            "vocab_size": VOCABULARY,
            "bos_token_id": 1,
            "eos_token_id": [2, 60],
        }
        result = logits(weights, tokens, scaling, head)
        (folder / f"golden_llama_{name}.json").write_text(json.dumps(config, indent=2) + "\n")
        (folder / f"golden_llama_{name}.f32").write_bytes(result.float().numpy().astype("<f4").tobytes())
        print(f"{name}: logits {tuple(result.shape)}, standard deviation {result.std():.3f}, "
              f"largest {result.abs().max():.3f}")


if __name__ == "__main__":
    main()
