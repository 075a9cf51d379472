#!/usr/bin/env python3
"""What a parked session is worth: resuming it against reading its text again, and its bytes.

resume.py --holod PATH --model PATH [--tokens 1000] [--rounds 5] [--cache fp16]

A session is given a text of so many tokens and saved. Then servers are started, each time anew: one goes on with the
saved session, the next one is given the whole text as a prompt, and the time to the next token is taken, the best of the rounds.
The file's bytes are set beside those of the same tokens as fp16 keys and values. Run it on a machine that does nothing else.
"""

import argparse
import http.client
import json
import os
import subprocess
import tempfile
import time


class Server:
    def __init__(self, a, folder):
        ready = os.path.join(folder, "ready.json")
        if os.path.exists(ready):
            os.remove(ready)
        self.process = subprocess.Popen(
            [a.holod, "--model", f"it={a.model}", "--http", "127.0.0.1:0", "--grpc", "off", "--sessions",
             os.path.join(folder, "sessions"), "--ready-file", ready, "--log-level", "warn", "--model-cache", a.cache],
            stdout=subprocess.DEVNULL)
        while not os.path.exists(ready):
            if self.process.poll() is not None:
                raise SystemExit("holod does not come up")
            time.sleep(0.01)
        with open(ready, encoding="utf-8") as file:
            self.port = int(json.load(file)["http"].rsplit(":", 1)[1])

    def ask(self, path, body=None):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=600)
        connection.request("GET" if body is None else "POST", path, None if body is None else json.dumps(body))
        answer = connection.getresponse()
        text = json.loads(answer.read())
        if answer.status != 200:
            raise SystemExit(f"{path}: {answer.status} {text}")
        return text

    def end(self):
        self.process.terminate()
        self.process.wait()


def timed(server, body):
    # The first request of a process also reads pages that later ones have.
    server.ask("/v1/completions", {"prompt": "x", "max_tokens": 4})
    begin = time.monotonic()
    answer = server.ask("/v1/completions", dict(body, max_tokens=1, seed=1, ignore_eos=True))
    return time.monotonic() - begin, answer


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--holod", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--tokens", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--cache", default="fp16")
    a = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        server = Server(a, folder)
        model = server.ask("/v1/models")["data"][0]
        text = "".join(f"On day {i} the lighthouse keeper wrote a letter about the weather and the {i * 7 % 13} ships he saw. "
                       for i in range(a.tokens))
        tokens = server.ask("/tokenize", {"content": text[:40 * a.tokens]})["tokens"][:a.tokens]
        session = server.ask("/v1/sessions", {"seed": 1})["id"]
        server.ask("/v1/completions", {"session": session, "prompt": tokens, "max_tokens": 0})
        info = server.ask(f"/v1/sessions/{session}/save", {})
        server.end()
        size = os.path.getsize(os.path.join(folder, "sessions", session + ".session"))
        more = tokens[:8]
        resumed, read = [], []
        for _ in range(a.rounds):
            server = Server(a, folder)
            seconds, answer = timed(server, {"session": session, "prompt": more})
            first = answer["choices"][0]["text"]
            assert answer["usage"]["prompt_tokens_details"]["cached_tokens"] >= a.tokens - 1, answer
            resumed.append(seconds)
            server.end()
            server = Server(a, folder)
            seconds, answer = timed(server, {"prompt": tokens + more})
            assert answer["choices"][0]["text"] == first, "expected the same text"
            read.append(seconds)
            server.end()
    print(f"{a.tokens} tokens, memory {model['cache']['method']}, {model['cache']['bytes_per_token']:.0f} bytes a token")
    print(f"next token after resuming    {1000 * min(resumed):8.1f} ms")
    print(f"next token after reading     {1000 * min(read):8.1f} ms   {min(read) / min(resumed):.1f} times as long")
    print(f"saved session                {size:8d} bytes, {size / info['tokens']:.0f} a token")


if __name__ == "__main__":
    main()
