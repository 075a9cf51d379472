#!/usr/bin/env python3
"""Writes golden.json and golden_logits.f32 beside itself: what PyTorch, in double precision, and Hugging Face's tokenizers
make of the model that ships. To be run again whenever deploy/models/novelist changes.

    python tests/deploy/models/make_golden.py
"""
import json
import math
import pathlib
import sys

import torch
from tokenizers import Tokenizer
from torch.nn import functional

FOLDER = pathlib.Path(__file__).resolve().parent
DEPLOY = FOLDER.parents[2] / "deploy" / "models"
sys.path.insert(0, str(DEPLOY / "train"))
import export  # noqa: E402

PROMPTS = ["The old house stood at the end of the lane, and ",
           "\u2014 Where have you been all this time?\n\u2014",
           "  Na\u00efve caf\u00e9s, 1,234 emoji \U0001f600\U0001f3fd and\ttabs\r\n\n\n   isn't they'll WE'VE \u4f60\u597d"]


def main() -> None:
    torch.set_num_threads(1)
    model = export.load(DEPLOY / "novelist").double()
    tokenizer = Tokenizer.from_file(str(DEPLOY / "novelist" / "tokenizer.json"))
    text = (DEPLOY / "novelist" / "held_out.txt").read_text("utf-8")
    held_out = tokenizer.encode(text).ids
    prompts = [{"text": prompt, "tokens": tokenizer.encode(prompt).ids} for prompt in PROMPTS]
    rows = []
    with torch.no_grad():
        for tokens in [*(prompt["tokens"] for prompt in prompts), held_out[:model.shape.context]]:
            rows.append(model(torch.tensor(tokens)[None])[0, -1])
        window = torch.tensor(held_out[:model.shape.context])[None]
        loss = functional.cross_entropy(model(window[:, :-1])[0], window[0, 1:]).item()
    logits = torch.stack(rows)
    (FOLDER / "golden.json").write_text(json.dumps({
        "prompts": prompts, "held_out_tokens": len(held_out), "held_out_token_sum": sum(held_out),
        "first_window_perplexity": math.exp(loss)}, indent=1) + "\n")
    (FOLDER / "golden_logits.f32").write_bytes(logits.float().numpy().astype("<f4").tobytes())
    print(f"logits {tuple(logits.shape)}, standard deviation {logits.std():.3f}, largest {logits.abs().max():.3f}")


if __name__ == "__main__":
    main()
