#!/usr/bin/env python3
"""Many clients at once against holod: what is refused, how even the others' tokens come, and whether memory grows.

load.py --holod PATH --model DIRECTORY [--clients 200] [--queue 64] [--seconds 300]

Each client asks again and again for streamed completions of random length; some close the connection in the middle, some
read slowly. Refusals must be 429; anything else that is unexpected ends the program with status 1.
"""

import argparse
import asyncio
import collections
import json
import os
import random
import re
import socket
import subprocess
import sys
import tempfile
import time


def resident_mib(pid):
    with open(f"/proc/{pid}/status", encoding="utf-8") as file:
        return int(re.search(r"VmRSS:\s+(\d+)", file.read())[1]) / 1024


class Load:
    def __init__(self, port, a):
        self.port, self.end = port, time.monotonic() + a.seconds
        self.counts = collections.Counter()
        self.gaps, self.firsts, self.problems = [], [], []

    async def ask(self, random_):
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, limit=1 << 16)
        try:
            body = json.dumps({"prompt": "word " * random_.randrange(1, 300), "stream": True, "ignore_eos": True,
                               "max_tokens": random_.randrange(1, 80), "seed": random_.randrange(1 << 30)})
            writer.write(f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())
            await writer.drain()
            kind = random_.choices(["whole", "leaves", "slow"], [6, 3, 1])[0]
            leaves_after = random_.randrange(0, 20) if kind == "leaves" else None
            started = last = time.monotonic()
            if leaves_after == 0:
                await asyncio.sleep(random_.random() * 0.2)
                self.counts["left before the answer"] += 1
                return
            status = int((await reader.readline()).split()[1])
            while (await reader.readline()).strip():
                pass
            if status == 429:
                self.counts["refused with 429"] += 1
                await asyncio.sleep(random_.random() * 0.5)
                return
            if status != 200:
                self.problems.append(f"status {status}")
                return
            pieces = 0
            while line := await reader.readline():
                if line.startswith(b"data: [DONE]"):
                    self.counts["whole" if kind != "slow" else "whole, read slowly"] += 1
                    return
                if not line.startswith(b"data: {"):
                    continue
                if b'"error"' in line:
                    self.problems.append(line.decode())
                now = time.monotonic()
                if kind != "slow":
                    (self.gaps if pieces else self.firsts).append(now - (last if pieces else started))
                last = now
                pieces += 1
                if kind == "slow":
                    await asyncio.sleep(0.05)
                    last = time.monotonic()
                if pieces == leaves_after:
                    self.counts["left in the middle"] += 1
                    return
            self.problems.append("a stream without an end")
        finally:
            writer.close()

    async def client(self, number):
        random_ = random.Random(number)
        while time.monotonic() < self.end:
            try:
                await self.ask(random_)
            except (OSError, ValueError, IndexError) as error:
                self.problems.append(repr(error))


def percentile(values, part):
    values = sorted(values)
    return values[min(len(values) - 1, int(part * len(values)))] if values else float("nan")


async def run(load, a, pid):
    memory = []

    async def watch():
        while time.monotonic() < load.end:
            memory.append(resident_mib(pid))
            await asyncio.sleep(a.seconds / 20)
    await asyncio.gather(watch(), *(load.client(i) for i in range(a.clients)))
    return memory


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--holod", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--queue", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=300)
    a = parser.parse_args()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        ready = os.path.join(folder, "ready")
        process = subprocess.Popen([a.holod, "--model", a.model, "--http", f"127.0.0.1:{port}", "--grpc", "off",
                                    "--max-queue", str(a.queue), "--model-memory", "64", "--log-level", "error",
                                    "--ready-file", ready], stdout=subprocess.DEVNULL)
        while not os.path.exists(ready):
            if process.poll() is not None:
                sys.exit("holod does not come up")
            time.sleep(0.05)
        load = Load(port, a)
        memory = asyncio.run(run(load, a, process.pid))
        problems = list(load.problems)
        if process.poll() is not None:
            problems.append(f"holod has ended with {process.returncode}")
        process.terminate()
        if process.wait(timeout=60) != 0:
            problems.append(f"holod ended with {process.returncode}")
    for name, count in sorted(load.counts.items()):
        print(f"{count:7} {name}")
    print(f"first token: median {1000 * percentile(load.firsts, 0.5):.0f} ms, p99 {1000 * percentile(load.firsts, 0.99):.0f} ms")
    print(f"between tokens: median {1000 * percentile(load.gaps, 0.5):.0f} ms, p99 {1000 * percentile(load.gaps, 0.99):.0f} ms,"
          f" longest {1000 * max(load.gaps, default=0):.0f} ms")
    print("resident MiB: " + " ".join(f"{value:.0f}" for value in memory))
    for problem in problems[:10]:
        print("unexpected:", problem)
    sys.exit(1 if problems else 0)


if __name__ == "__main__":
    main()
