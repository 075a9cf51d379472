"""Train the model on what prepare.py made.

    python train.py --data work --minutes 95 --processes 2
    python train.py --data work --minutes 9 --device cuda --layers 6 --width 320 --dropout 0.1 --batch 32768 \
        --at-once 32768 --matrix-rate 0.01 --vector-rate 0.002

The schedule follows the clock and not a number of steps: after --minutes of training the learning rate is zero, however
much the machine was loaded. Windows are short at first and the whole context in the last part. A checkpoint is written
every few minutes, in one step (checkpoint.pt); the same command goes on from there. Matrices are trained with Muon
(momentum, orthogonalised by Newton-Schulz iterations), the rest with Adam.

On a CPU, `--processes N` with one thread each is faster than N threads in one process. On a GPU, one process.
"""

import argparse
import datetime
import math
import os
import pathlib
import signal
import time

import numpy
import torch
import torch.distributed
import torch.multiprocessing

from gpt2 import Gpt2, Shape

# (part of the time from which it holds, tokens in a window)
WINDOWS = [(0.0, 256), (0.59, 512), (0.72, 1024)]


BETAS = (0.9, 0.99)


class Windows:
    """Windows of a token file in random order, each once before any comes again, and from another phase next time."""

    def __init__(self, path: pathlib.Path, rank: int, processes: int):
        self.tokens = numpy.fromfile(path, dtype="<u2")
        self.rank, self.processes = rank, processes
        self.order, self.used, self.length = numpy.empty(0, dtype=numpy.int64), 0, 0

    def take(self, count: int, length: int, rng: numpy.random.Generator) -> numpy.ndarray:
        """[processes * count] windows are drawn, the same ones everywhere; returned is this process's share,
        [count, length + 1]."""
        starts = []
        while len(starts) < count * self.processes:
            if length != self.length or self.used == len(self.order):
                phase = int(rng.integers(length))
                self.order = rng.permutation(numpy.arange(phase, len(self.tokens) - length - 1, length))
                self.used, self.length = 0, length
            starts.append(self.order[self.used])
            self.used += 1
        own = starts[self.rank::self.processes]
        return numpy.stack([self.tokens[start:start + length + 1] for start in own]).astype(numpy.int64)


def orthogonalise(matrices: torch.Tensor) -> torch.Tensor:
    """[count, rows, columns]; the singular values of each to about 1: five steps of the quintic Newton-Schulz iteration
    (Keller Jordan, "Muon", 2024)."""
    x = matrices.bfloat16()
    if tall := x.shape[1] > x.shape[2]:
        x = x.mT
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(5):
        gram = x @ x.mT
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return (x.mT if tall else x).float()


class Muon(torch.optim.Optimizer):
    """Each process orthogonalises its share of the matrices; gradients are the same in all of them."""

    def __init__(self, matrices, rate: float, rank: int, processes: int, momentum: float = 0.95, decay: float = 0.1):
        super().__init__(matrices, {"lr": rate, "momentum": momentum, "decay": decay})
        self.rank, self.processes = rank, processes

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            parts = []
            for matrix in group["params"]:
                state = self.state[matrix]
                if not state:
                    state["momentum"] = torch.zeros_like(matrix)
                mean = state["momentum"].lerp_(matrix.grad, 1 - group["momentum"])
                step = matrix.grad.lerp(mean, group["momentum"])
                # Queries, keys and values are three matrices in one.
                parts += step.split(step.shape[1]) if step.shape[0] == 3 * step.shape[1] else [step]
            # Equal shapes together, which is what makes it quick on a GPU.
            own: dict[torch.Size, list[int]] = {}
            for i in range(self.rank, len(parts), self.processes):
                own.setdefault(parts[i].shape, []).append(i)
            done = [torch.zeros_like(part) for part in parts]
            for (rows, columns), numbers in own.items():
                found = orthogonalise(torch.stack([parts[i] for i in numbers])) * max(1, rows / columns) ** 0.5
                for i, step in zip(numbers, found):
                    done[i] = step
            steps = torch.cat([step.flatten() for step in done])
            if self.processes > 1:
                torch.distributed.all_reduce(steps)
            for matrix, step in zip(group["params"], steps.split([matrix.numel() for matrix in group["params"]])):
                matrix.mul_(1 - group["lr"] * group["decay"]).add_(step.view_as(matrix), alpha=-group["lr"])


def learning_rate(part: float) -> float:
    """Factor at a part of the time, 0 to 1."""
    return min(part / 0.02, 1.0, (1 - part) / 0.7) if part < 1 else 0.0


def positions(batch: int, length: int, context: int, rng: numpy.random.Generator) -> numpy.ndarray:
    """Short windows lie anywhere in the context, half of them at its beginning, so that all positions are learned."""
    starts = rng.integers(context - length + 1, size=batch)
    starts[::2] = 0
    return starts[:, None] + numpy.arange(length)


@torch.no_grad()
def held_out_loss(model: Gpt2, tokens: numpy.ndarray, device: str, length: int = 1024, windows: int = 12) -> float:
    total = 0.0
    model.eval()
    for i in range(windows):
        start = i * (len(tokens) - length - 1) // max(1, windows - 1)
        window = torch.from_numpy(tokens[start:start + length + 1].astype(numpy.int64)).to(device)[None]
        total += model.loss(window[:, :-1], window[:, 1:], torch.arange(length, device=device)[None]).item()
    model.train()
    return total / windows


def save(path: pathlib.Path, state: dict) -> None:
    temporary = path.with_suffix(".new")
    torch.save(state, temporary)
    os.replace(temporary, path)


def run(rank: int, options: argparse.Namespace) -> None:
    torch.set_num_threads(options.threads)
    signal.signal(signal.SIGINT, signal.SIG_IGN if rank else signal.default_int_handler)
    processes = options.processes
    if processes > 1:
        os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(options.port))
        torch.distributed.init_process_group("gloo", rank=rank, world_size=processes,
                                             timeout=datetime.timedelta(minutes=10))
    device = options.device
    torch.manual_seed(options.seed)
    shape = Shape(layers=options.layers, width=options.width, heads=options.width // 64,
                  vocabulary=options.vocabulary, dropout=options.dropout)
    model = Gpt2(shape).to(device)
    matrices = [p for block in model.blocks for p in block.parameters() if p.dim() == 2]
    others = [p for p in model.parameters() if all(p is not matrix for matrix in matrices)]
    optimisers = [Muon(matrices, options.matrix_rate, rank, processes),
                  torch.optim.Adam(others, options.vector_rate, betas=BETAS, eps=1e-10)]
    rates = [options.matrix_rate, options.vector_rate]

    checkpoint = options.out / "checkpoint.pt"
    done = {"seconds": 0.0, "steps": 0, "tokens": 0}
    if checkpoint.exists():
        state = torch.load(checkpoint, map_location=device)
        model.load_state_dict(state["model"])
        for optimiser, saved in zip(optimisers, state["optimisers"]):
            optimiser.load_state_dict(saved)
        for group in optimisers[1].param_groups:
            group["betas"] = BETAS
        done = state["done"]
    elif options.start:
        state = torch.load(options.start, map_location=device)
        model.load_state_dict(state["model"])
        done |= {name: state["done"][name] for name in ("steps", "tokens")}

    # A run that goes on draws other windows than before.
    rng = numpy.random.default_rng([options.seed, done["steps"]])
    novels = Windows(options.data / "novels.u16", rank, processes)
    chat = Windows(options.data / "chat.u16", rank, processes)
    held_out = numpy.fromfile(options.data / "held_out.u16", dtype="<u2")

    began = saved_at = reported_at = time.monotonic() - done["seconds"]
    saved_at = reported_at = time.monotonic()
    reported_tokens = done["tokens"]
    losses: list[float] = []
    parameters = list(model.parameters())
    while True:
        clock = torch.tensor([time.monotonic() - began], dtype=torch.float64)
        if processes > 1:
            torch.distributed.broadcast(clock, 0)  # one clock for all, so that all stop together
        part = clock.item() / (60 * options.minutes)
        if part >= 1:
            break
        length = [tokens for since, tokens in WINDOWS if part >= since][-1]
        batch = options.batch // processes // length  # windows of one process in one step
        mine = max(1, options.at_once // length)
        # The same number and the same windows are drawn by all processes; each takes its share.
        chats = int(rng.binomial(batch, options.chat_share))
        rows = numpy.concatenate([source.take(count, length, rng) for source, count in
                                  ((novels, batch - chats), (chat, chats)) if count])
        where = positions(batch * processes, length, shape.context, rng)[rank * batch:(rank + 1) * batch]
        loss_sum = torch.zeros((), device=device)
        for first in range(0, batch, mine):
            tokens = torch.from_numpy(rows[first:first + mine]).to(device)
            place = torch.from_numpy(where[first:first + mine]).to(device)
            with torch.autocast(device.split(":")[0], torch.bfloat16):
                loss = model.loss(tokens[:, :-1], tokens[:, 1:], place) * (len(tokens) / batch)
            loss.backward()
            loss_sum += loss.detach()
        if processes > 1:
            flat = torch.cat([p.grad.flatten() for p in parameters])
            torch.distributed.all_reduce(flat)
            flat /= processes
            for p, grad in zip(parameters, flat.split([p.numel() for p in parameters])):
                p.grad.copy_(grad.view_as(p))
        torch.nn.utils.clip_grad_norm_(others, 1.0)
        for optimiser, rate in zip(optimisers, rates):
            for group in optimiser.param_groups:
                group["lr"] = rate * learning_rate(part)
            optimiser.step()
            optimiser.zero_grad()
        done = {"seconds": time.monotonic() - began, "steps": done["steps"] + 1,
                "tokens": done["tokens"] + batch * processes * length}
        loss_sum = loss_sum.item()
        if not math.isfinite(loss_sum):
            raise SystemExit(f"step {done['steps']}: expected a finite loss, found {loss_sum}")
        losses.append(loss_sum)
        now = time.monotonic()
        if rank == 0 and now - reported_at > options.report_seconds:
            print(f"{time.strftime('%H:%M:%S')} {part:6.1%} step {done['steps']} tokens {done['tokens']:,} window {length} "
                  f"loss {sum(losses) / len(losses):.4f} "
                  f"{(done['tokens'] - reported_tokens) / (now - reported_at):,.0f} tokens/s", flush=True)
            reported_at, reported_tokens, losses = now, done["tokens"], []
        if rank == 0 and now - saved_at > 60 * options.save_minutes:
            with torch.autocast(device.split(":")[0], torch.bfloat16):
                loss = held_out_loss(model, held_out, device)
            print(f"{time.strftime('%H:%M:%S')} held out: {loss:.4f}, perplexity per token {math.exp(loss):.2f}", flush=True)
            save(checkpoint, {"model": model.state_dict(), "optimisers": [o.state_dict() for o in optimisers],
                              "done": done, "shape": vars(shape)})
            saved_at = time.monotonic()
    if rank == 0:
        save(options.out / "final.pt", {"model": model.state_dict(), "done": done, "shape": vars(shape)})
        print(f"{time.strftime('%H:%M:%S')} finished: {done['steps']} steps, {done['tokens']:,} tokens", flush=True)
    if processes > 1:
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=pathlib.Path, required=True, help="the folder that prepare.py made")
    parser.add_argument("--out", type=pathlib.Path, help="for checkpoint.pt and final.pt (default: as --data)")
    parser.add_argument("--minutes", type=float, required=True, help="of training in all, earlier parts included")
    parser.add_argument("--start", type=pathlib.Path, help="begin with this checkpoint's weights, and a new schedule")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: %(default)s)")
    parser.add_argument("--processes", type=int, default=1, help="on a CPU: as many as cores (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="of each process (default: %(default)s)")
    parser.add_argument("--port", type=int, default=29417, help="on which the processes meet (default: %(default)s)")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--width", type=int, default=256, help="a multiple of 64, the width of a head")
    parser.add_argument("--vocabulary", type=int, default=4096)
    parser.add_argument("--dropout", type=float, default=0.0, help="for many epochs (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=6144, help="tokens in a step (default: %(default)s)")
    parser.add_argument("--at-once", type=int, default=2048, help="tokens in a pass (default: %(default)s)")
    parser.add_argument("--chat-share", type=float, default=0.12, help="of windows (default: %(default)s)")
    parser.add_argument("--matrix-rate", type=float, default=0.005)
    parser.add_argument("--vector-rate", type=float, default=0.001)
    parser.add_argument("--save-minutes", type=float, default=4)
    parser.add_argument("--report-seconds", type=float, default=30)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    options.out = options.out or options.data
    options.out.mkdir(parents=True, exist_ok=True)
    if options.width % 64:
        parser.error(f"--width: expected a multiple of 64, found {options.width}")
    if options.batch % (options.processes * WINDOWS[-1][1]):
        parser.error(f"--batch: expected a multiple of {options.processes * WINDOWS[-1][1]}, found {options.batch}")
    if options.processes > 1:
        torch.multiprocessing.spawn(run, (options,), nprocs=options.processes)
    else:
        run(0, options)


if __name__ == "__main__":
    main()
