"""What an exported model can do: perplexity on the novels that it has not seen, and samples.

    python evaluate.py --data work --model ../novelist
    python evaluate.py --model ../novelist --text held_out.txt
    python evaluate.py --model ../novelist --prompt "The old house" --chat "Who are you?"

Windows of the whole context without overlap, or with --stride; float32 on one CPU thread; bytes are those of the tokens
that were predicted. The same numbers as of `holo lm eval`.
"""

import argparse
import json
import math
import pathlib

import numpy
import torch
from tokenizers import Tokenizer
from torch.nn import functional

import export


@torch.no_grad()
def score(model, tokens: list[int], stride: int, bytes_of: list[int]) -> dict:
    """Every token but the first of a window is predicted once, as by holo's evaluation::Evaluate. Natural logarithms,
    summed over the predictions; bytes_of a token's number are counted where it is predicted."""
    context = model.shape.context
    loss, count, size, done = 0.0, 0, 0, 1
    for begin in range(0, len(tokens), stride):
        end = min(begin + context, len(tokens))
        first = max(done, begin + 1)
        if first < end:
            window = torch.tensor(tokens[begin:end])[None]
            each = functional.cross_entropy(model(window[:, :-1])[0], window[0, 1:], reduction="none").double()
            loss += each[first - begin - 1:].sum().item()
            count += end - first
            size += sum(bytes_of[token] for token in tokens[first:end])
        done = max(done, end)
        if end == len(tokens):
            break
    return {"loss": loss, "predictions": count, "bytes": size}


def report(name: str, result: dict) -> None:
    loss, count, size = result["loss"], result["predictions"], result["bytes"]
    print(f"{name}: {count:,} predictions, {size:,} bytes, perplexity {math.exp(loss / count):.3f} per token, "
          f"{math.exp(loss / size):.4f} per byte, {loss / size / math.log(2):.4f} bits per byte", flush=True)


@torch.no_grad()
def sample(model, tokens: list[int], count: int, temperature: float, top_p: float, stop: int | None,
           generator: torch.Generator) -> list[int]:
    tokens = list(tokens)
    first = len(tokens)
    while len(tokens) - first < count:
        logits = model(torch.tensor(tokens[-model.shape.context:])[None])[0, -1] / temperature
        sorted_probabilities, order = logits.softmax(0).sort(descending=True)
        sorted_probabilities[sorted_probabilities.cumsum(0) - sorted_probabilities > top_p] = 0
        token = int(order[torch.multinomial(sorted_probabilities, 1, generator=generator)])
        if token == stop or token == model.shape.vocabulary - 1:
            break
        tokens.append(token)
    return tokens[first:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=pathlib.Path, required=True, help="the directory that export.py wrote")
    parser.add_argument("--data", type=pathlib.Path, help="the folder that prepare.py made: its held-out novels")
    parser.add_argument("--text", type=pathlib.Path, help="a text")
    parser.add_argument("--stride", type=int, default=0, help="0: windows do not overlap (default)")
    parser.add_argument("--prompt", action="append", default=[], help="go on from here")
    parser.add_argument("--chat", action="append", default=[], help="answer this; several are one conversation")
    parser.add_argument("--tokens", type=int, default=120)
    parser.add_argument("--temperature", type=float, default=0.8)
    parser.add_argument("--top-p", type=float, default=0.95)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(1)
    model = export.load(options.model)
    tokenizer = Tokenizer.from_file(str(options.model / "tokenizer.json"))
    generator = torch.Generator().manual_seed(options.seed)
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters")
    end = model.shape.vocabulary - 1
    stride = options.stride or model.shape.context

    texts = []
    if options.data:
        tokens = numpy.fromfile(options.data / "held_out.u16", dtype="<u2").tolist()
        names = json.loads((options.data / "summary.json").read_text("utf-8"))["kept_out"]
        starts = [i for i, token in enumerate(tokens) if token == end] + [len(tokens)]
        texts += [(name, tokens[a + 1:b]) for name, a, b in zip(names, starts, starts[1:])]
    if options.text:
        texts.append((options.text.name, tokenizer.encode(options.text.read_text("utf-8")).ids))
    # A token is written with one character for each byte.
    bytes_of = [len(tokenizer.id_to_token(token)) for token in range(model.shape.vocabulary)]
    novels = []
    for name, tokens in texts:
        result = score(model, tokens, stride, bytes_of)
        report(name, result)
        if not options.text or name != options.text.name:
            novels.append(result)
    if novels:
        report("novels kept out", {key: sum(result[key] for result in novels) for key in novels[0]})

    for prompt in options.prompt:
        tokens = tokenizer.encode(prompt).ids
        made = sample(model, [end] + tokens, options.tokens, options.temperature, options.top_p, None, generator)
        print(f"--- {prompt}\n{tokenizer.decode(tokens + made)}")
    template = json.loads((options.model / "holo.json").read_text("utf-8"))["template"]
    stop = tokenizer.encode(template["stop"]).ids[0]
    history = ""
    for said in options.chat:
        history += template["prompt"].replace("{user}", said)
        made = sample(model, [end] + tokenizer.encode(history).ids, options.tokens, options.temperature, options.top_p,
                      stop, generator)
        answer = tokenizer.decode(made)
        print(f"> {said}\n{answer.strip()}")
        history += answer + template["stop"]


if __name__ == "__main__":
    main()
