#!/usr/bin/env python3
"""holod and llama-cpp-python's server over HTTP, on the same model file, one after the other.

against_llama_server.py --holod PATH --model FILE.gguf [--llama PYTHON] [--streams 1,8,32] [--tokens 64] [--threads 2]

For each number of streams: that many clients at once ask for a completion of `tokens` tokens, streaming, each with a
prompt of its own of about 40 tokens. Time to the first token (median over clients) and all tokens over the time from the
first request to the last token. --llama is a Python that has llama_cpp.server; without it only holod is measured. That
server takes one request at a time. Run it on a machine that does nothing else.
"""

import argparse
import http.client
import json
import os
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def wait_until_up(port, process):
    for _ in range(600):
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            connection.request("GET", "/v1/models")
            if connection.getresponse().status == 200:
                return
        except OSError:
            pass
        if process.poll() is not None:
            sys.exit("a server has ended before it was up")
        time.sleep(0.1)
    sys.exit("a server does not come up")


def one_client(port, number, tokens, results):
    prompt = f"Story number {number}. Once upon a time there was a lighthouse keeper who wrote letters to the sea, and " \
             "every evening he read them aloud from the gallery. One day"
    body = {"prompt": prompt, "max_tokens": tokens, "temperature": 0.8, "top_k": 40, "top_p": 0.95, "seed": number, "stream": True,
            "ignore_eos": True, "logit_bias": {"0": -100, "2": -100}}
    started = time.monotonic()
    first = None
    pieces = 0
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
    connection.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
    answer = connection.getresponse()
    while line := answer.readline():
        if not line.startswith(b"data: {"):
            continue
        if first is None:
            first = time.monotonic() - started
        pieces += 1
    results[number] = (first, pieces, started, time.monotonic())


def measure(port, streams, tokens):
    results = [None] * streams
    threads = [threading.Thread(target=one_client, args=(port, i, tokens, results)) for i in range(streams)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = max(end for _, _, _, end in results) - min(start for _, _, start, _ in results)
    return statistics.median(first for first, _, _, _ in results), streams * tokens / seconds


def resident_mib(pid):
    with open(f"/proc/{pid}/status", encoding="utf-8") as file:
        return int(re.search(r"VmHWM:\s+(\d+)", file.read())[1]) / 1024


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--holod", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--llama")
    parser.add_argument("--streams", default="1,8,32")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    a = parser.parse_args()
    servers = [("holod", lambda port: [a.holod, "--model", a.model, "--http", f"127.0.0.1:{port}", "--grpc", "off",
                                       "--model-threads", str(a.threads), "--log-level", "warn"])]
    if a.llama:
        servers.append(("llama-cpp-python", lambda port: [
            a.llama, "-m", "llama_cpp.server", "--model", a.model, "--port", str(port), "--n_ctx", "2048", "--n_threads",
            str(a.threads), "--n_threads_batch", str(a.threads), "--verbose", "False",
            "--interrupt_requests", "False"]))
    for name, command in servers:
        port = free_port()
        with tempfile.TemporaryFile() as log:
            process = subprocess.Popen(command(port), stdout=log, stderr=log)
            try:
                wait_until_up(port, process)
                measure(port, 1, 8)  # warm
                for streams in map(int, a.streams.split(",")):
                    first, speed = measure(port, streams, a.tokens)
                    print(f"{name:18} {streams:3} streams: first token {1000 * first:7.0f} ms, {speed:7.1f} tokens/s in all,"
                          f" {resident_mib(process.pid):6.0f} MiB at the peak", flush=True)
            finally:
                process.terminate()
                process.wait()


if __name__ == "__main__":
    main()
