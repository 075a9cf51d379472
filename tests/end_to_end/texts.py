#!/usr/bin/env python3
"""Text generation over HTTP, with the real server and what people use: curl's way, not a library's.

texts.py --holo PATH --holod PATH --model DIRECTORY
"""

import argparse
import http.client
import json
import math
import os
import signal
import socket
import subprocess
import threading
import time

from harness import Server, check, main, run


class TextServer(Server):
    """holod with a model and no pictures."""

    def __init__(self, a, *arguments):
        super().__init__([a.holod], "--log-level=info", "--model", a.model, *arguments)

    def connect(self):
        return http.client.HTTPConnection("127.0.0.1", self.port("ws"), timeout=120)

    def ask(self, path, body=None, headers=None, method=None):
        """Status, headers, and the answer: JSON where it is."""
        connection = self.connect()
        data = body if body is None or isinstance(body, (bytes, str)) else json.dumps(body)
        connection.request(method or ("GET" if body is None else "POST"), path, data, headers or {})
        answer = connection.getresponse()
        text = answer.read().decode()
        connection.close()
        return answer.status, answer.headers, json.loads(text) if text.startswith("{") else text

    def complete(self, **body):
        status, _, answer = self.ask("/v1/completions", body)
        check(status == 200, f"expected 200, found {status}: {answer}")
        return answer

    def metric(self, name):
        for line in self.ask("/metrics")[2].splitlines():
            if line.startswith(name + " "):
                return float(line.split()[1])
        return None

    def wait_for(self, name, value):
        deadline = time.monotonic() + 60
        while self.metric(name) != value:
            check(time.monotonic() < deadline, f"{name}: expected {value}, found {self.metric(name)}")
            time.sleep(0.02)


def parallel(work, count):
    """What work(i) gives for each i, all at once."""
    results = [None] * count

    def one(i):
        try:
            results[i] = work(i)
        except Exception as error:  # pylint: disable=broad-except
            results[i] = error

    threads = [threading.Thread(target=one, args=(i,)) for i in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for result in results:
        if isinstance(result, Exception):
            raise result
    return results


def events(answer):
    """The data of server-sent events, and how many comments there were."""
    data = []
    for line in answer.read().decode().split("\n"):
        if line.startswith("data: "):
            data.append(line[6:])
    return data


PROMPTS = ["The old house", "She said", "In the morning the", "“I never", "It was", "My dear Sir,"]


def a_seed_gives_the_same_text_alone_in_a_batch_and_from_the_tool(folder, a):
    with TextServer(a) as server:
        def write(i):
            return server.complete(prompt=PROMPTS[i % len(PROMPTS)], max_tokens=40 + i, seed=i, temperature=0.9,
                                   ignore_eos=True)["choices"][0]["text"]
        alone = [write(i) for i in range(32)]
        together = parallel(write, 32)
        check(alone == together, "expected the same texts in a batch of 32")
        largest = server.metric('holo_text_batch_size_bucket{le="8"}')
        steps = server.metric("holo_text_batch_size_count")
        check(steps > largest, "expected steps with more than 8 texts")
        choices = server.complete(prompt=PROMPTS[0], max_tokens=40, seed=0, temperature=0.9, ignore_eos=True, n=4)
        check(choices["choices"][0]["text"] == alone[0], "expected the first of 4 choices to be the text of its seed")
        for i in range(3):
            tool = json.loads(run(a.holo, "lm", "generate", a.model, "--prompt", PROMPTS[i], "--max-tokens", 40 + i,
                                  "--seed", i, "--temperature", "0.9", "--top-p", "1", "--top-k", "0", "--json").stdout)
            check(tool["texts"][0]["text"] == alone[i] or tool["texts"][0]["finish"] == "end",
                  f"expected what holo lm generate writes, {tool['texts'][0]['text']!r}, found {alone[i]!r}")


def scores_give_the_perplexity_of_the_tool(folder, a):
    text = os.path.join(a.model, "held_out.txt")
    with open(text, encoding="utf-8") as file:
        beginning = file.read()[:40000]
    tool = json.loads(run(a.holo, "lm", "eval", a.model, "--text", text, "--tokens", 4096, "--json").stdout)
    with TextServer(a) as server:
        tokens = server.ask("/tokenize", {"content": beginning})[2]["tokens"][:4096]
        windows = [tokens[i:i + 1024] for i in range(0, len(tokens), 1024)]
        answer = server.complete(prompt=windows, max_tokens=0, echo=True, logprobs=0)
        losses = [-value for choice in answer["choices"] for value in choice["logprobs"]["token_logprobs"][1:]]
    perplexity = math.exp(sum(losses) / len(losses))
    check(abs(perplexity / tool["perplexity"] - 1) < 1e-3, f"expected {tool['perplexity']}, found {perplexity}")
    return f"{perplexity:.4f} and {tool['perplexity']:.4f}"


def a_stream_has_the_same_text_and_ends_properly(folder, a):
    with TextServer(a) as server:
        body = {"messages": [{"role": "user", "content": "Where have you been?"}], "max_tokens": 30, "seed": 4}
        whole = server.ask("/v1/chat/completions", body)[2]
        connection = server.connect()
        for _ in range(2):  # the connection serves another one
            connection.request("POST", "/v1/chat/completions",
                               json.dumps(dict(body, stream=True, stream_options={"include_usage": True})))
            answer = connection.getresponse()
            check(answer.headers["Content-Type"].startswith("text/event-stream"), f"found {answer.headers}")
            data = events(answer)
            check(data[-1] == "[DONE]", f"expected [DONE] at the end, found {data[-1]}")
            chunks = [json.loads(line) for line in data[:-1]]
            check(chunks[-1]["usage"] == whole["usage"] and chunks[-1]["choices"] == [], f"found {chunks[-1]}")
            text = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks[:-1])
            check(text == whole["choices"][0]["message"]["content"], f"expected {whole}, found {text!r}")


def the_next_turn_of_a_conversation_reads_only_what_is_new(folder, a):
    with TextServer(a) as server:
        messages = [{"role": "user", "content": "Tell me of the house by the sea, and who lived there, and of " * 8}]
        body = {"messages": messages, "max_tokens": 60, "seed": 4}
        first = server.ask("/v1/chat/completions", body)[2]
        check(first["usage"]["prompt_tokens_details"]["cached_tokens"] == 0, f"found {first['usage']}")
        again = server.ask("/v1/chat/completions", body)[2]
        check(again["choices"] == first["choices"], "expected the same text after a hit")
        check(again["usage"]["prompt_tokens_details"]["cached_tokens"] >= 64, f"found {again['usage']}")
        messages += [dict(first["choices"][0]["message"]), {"role": "user", "content": "And then?"}]
        second = server.ask("/v1/chat/completions", body)[2]
        usage = second["usage"]
        check(usage["prompt_tokens"] - usage["prompt_tokens_details"]["cached_tokens"] < 64, f"found {usage}")
        with TextServer(a) as fresh:
            check(fresh.ask("/v1/chat/completions", body)[2]["choices"] == second["choices"],
                  "expected the same text after a hit and without")


def who_goes_away_stops_the_text(folder, a):
    with TextServer(a, "--max-batch", "1") as server:
        long = {"prompt": "x", "max_tokens": 1000, "ignore_eos": True, "n": 8}
        for stream in (True, False):
            # The first is writing, the second waits in the queue.
            connections = [server.connect() for _ in range(2)]
            for connection in connections:
                connection.request("POST", "/v1/completions", json.dumps(dict(long, stream=stream)))
            server.wait_for("holo_text_running", 1)
            server.wait_for("holo_text_queued", 1)
            for connection in reversed(connections):
                connection.sock.close()
                connection.close()
            server.wait_for("holo_text_running", 0)
            server.wait_for("holo_text_queued", 0)
        check(server.metric("holo_text_cancelled_total") == 4, "expected 4 cancelled requests")
        check(server.metric("holo_text_memory_bytes") == 0, "expected no memory to be held")
        # And in the middle of a prompt.
        connection = server.connect()
        connection.request("POST", "/v1/completions", json.dumps({"prompt": [[5] * 1000] * 100, "max_tokens": 1}))
        server.wait_for("holo_text_running", 1)
        connection.sock.close()
        server.wait_for("holo_text_running", 0)


def a_full_queue_says_when_to_come_again_and_the_server_stays_alive(folder, a):
    with TextServer(a, "--max-batch", "1", "--max-queue", "2") as server:
        long = {"prompt": "x", "max_tokens": 1000, "ignore_eos": True, "n": 16, "stream": True}
        connections = [server.connect() for _ in range(3)]
        for i, connection in enumerate(connections):
            connection.request("POST", "/v1/completions", json.dumps(long))
            server.wait_for("holo_text_requests_total", i + 1)
            server.wait_for("holo_text_running", 1)
        status, headers, answer = server.ask("/v1/completions", {"prompt": "x"})
        check(status == 429 and headers["Retry-After"] is not None, f"expected 429, found {status} {answer}")
        check(answer["error"]["type"] == "rate_limit_error", f"found {answer}")
        started = time.monotonic()
        check(server.ask("/healthz")[0] == 200, "expected to be alive")
        check(server.ask("/readyz")[0] == 503, "expected not to be ready")
        check(time.monotonic() - started < 5, "expected answers at once")
        for connection in connections:
            connection.sock.close()


def a_long_prompt_does_not_hold_up_others(folder, a):
    with TextServer(a) as server:
        gaps = []
        connection = server.connect()
        connection.request("POST", "/v1/completions", json.dumps(
            {"prompt": "x", "max_tokens": 900, "ignore_eos": True, "stream": True}))
        answer = connection.getresponse()
        answer.readline()
        threads = [threading.Thread(target=server.complete, kwargs={"prompt": [7] * 1000, "max_tokens": 1})
                   for _ in range(4)]
        for thread in threads:
            thread.start()
        last = time.monotonic()
        pieces = 0
        while line := answer.readline():
            if line.startswith(b"data: {"):
                pieces += 1
                gaps.append(time.monotonic() - last)
                last = time.monotonic()
        for thread in threads:
            thread.join()
        check(pieces > 500, f"expected most tokens to come alone, found {pieces} pieces")
        return f"longest gap {1000 * max(gaps):.0f} ms"


def a_signal_lets_texts_end_and_takes_no_more(folder, a):
    with TextServer(a, "--shutdown-timeout", "60") as server:
        connection = server.connect()
        connection.request("POST", "/v1/completions", json.dumps(
            {"prompt": "x", "max_tokens": 300, "ignore_eos": True, "stream": True}))
        answer = connection.getresponse()
        answer.readline()
        server.process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + 30
        refused = False
        while not refused and time.monotonic() < deadline and server.process.poll() is None:
            try:
                refused = server.ask("/v1/completions", {"prompt": "x"})[0] == 503
            except OSError:
                refused = True
        check(refused, "expected new requests to be refused")
        check(events(answer)[-1] == "[DONE]", "expected the stream to its end")
        server.process.wait(timeout=60)


def the_chat_says_the_same_over_both_and_stops_replies(folder, a):
    with TextServer(a) as server:
        said = []
        for url in (server.addresses["http"], server.url("grpc")):
            done = run(a.holo, "chat", url, "--seed", 3, "--max-tokens", 30, "--json",
                       input=b"Where have you been?\nAnd before that?\n")
            replies = [json.loads(line) for line in done.stdout.splitlines()]
            said.append([reply["reply"] for reply in replies])
            check(len(replies) == 2 and replies[1]["prompt_tokens"] > replies[0]["prompt_tokens"], f"found {replies}")
        check(said[0] == said[1], f"expected the same replies over both, found {said}")
        for url in (server.addresses["http"], server.url("grpc")):
            # Replies of this model end soon: one is caught while it is written.
            for _ in range(200):
                process = subprocess.Popen([a.holo, "chat", url, "--json", "--temperature", "1.8"], stdin=subprocess.PIPE,
                                           stdout=subprocess.PIPE, stderr=subprocess.PIPE)
                process.stdin.write(b"Tell me everything of it, and more, at great length\n")
                process.stdin.flush()
                before = server.metric("holo_text_requests_total")
                deadline = time.monotonic() + 60
                while server.metric("holo_text_requests_total") == before and time.monotonic() < deadline:
                    pass
                process.send_signal(signal.SIGINT)
                output, _ = process.communicate(timeout=60)
                check(process.returncode == 0, f"expected an orderly end, found {process.returncode}")
                if json.loads(output)["finish"] == "interrupted":
                    break
            else:
                check(False, f"{url}: expected a reply to be stopped")
            server.wait_for("holo_text_running", 0)
        run(a.holo, "chat", server.addresses["http"], "--model", "none", input=b"x\n", expect=3)
        run(a.holo, "chat", "ftp://x", input=b"x\n", expect=2)


def a_saved_session_survives_kill_and_goes_to_another_server(folder, a):
    turns = [{"prompt": "The old house stood on the hill, and nobody had lived in it for a hundred years. ", "max_tokens": 60},
             {"prompt": " In the morning", "max_tokens": 40}, {"prompt": " She said", "max_tokens": 40}]
    keys = ["--api-key", "one", "--api-key", "two"]
    one, two = {"Authorization": "Bearer one"}, {"Authorization": "Bearer two"}

    def write(server, session, turn):
        status, _, answer = server.ask("/v1/completions", dict(turn, session=session, ignore_eos=True), one)
        check(status == 200, f"expected 200, found {status} {answer}")
        return answer["choices"][0]["text"], answer["usage"]

    def make(server):
        status, _, answer = server.ask("/v1/sessions", {"seed": 11}, one)
        check(status == 200 and answer["object"] == "session", f"found {status} {answer}")
        return answer["id"]

    with TextServer(a, "--sessions", f"{folder}/a", *keys) as server:
        session = make(server)
        expected = [write(server, session, turn)[0] for turn in turns]
        check(server.ask(f"/v1/sessions/{session}", headers=one)[2]["turns"] == 3, "expected three turns")
        check(server.ask(f"/v1/sessions/{session}", headers=two)[0] == 404, "expected it to be hidden from others")
        check(server.ask("/v1/sessions", headers=two)[2]["data"] == [], "expected an empty list for others")
        status, _, answer = server.ask(f"/v1/sessions/{session}", headers=one, method="DELETE")
        check(status == 200 and answer["deleted"], f"found {status} {answer}")
        check(server.ask(f"/v1/sessions/{session}", headers=one)[0] == 404, "expected it to be gone")
    killed = TextServer(a, "--sessions", f"{folder}/a", *keys).__enter__()
    session = make(killed)
    check(write(killed, session, turns[0])[0] == expected[0], "expected the same text of the same seed")
    status, _, answer = killed.ask(f"/v1/sessions/{session}/save", {}, one)
    check(status == 200 and answer["saved"], f"found {status} {answer}")
    write(killed, session, {"prompt": " What is not saved is lost.", "max_tokens": 10})
    killed.process.kill()
    killed.process.wait()
    os.mkdir(f"{folder}/b")
    with open(f"{folder}/a/{session}.session", "rb") as source, open(f"{folder}/b/{session}.session", "wb") as target:
        content = source.read()
        target.write(content)
    for where in ("a", "b"):
        with TextServer(a, "--sessions", f"{folder}/{where}", *keys) as server:
            listed = server.ask("/v1/sessions", headers=one)[2]["data"]
            check([entry["id"] for entry in listed] == [session], f"expected the saved one, found {listed}")
            text, usage = write(server, session, turns[1])
            check(text == expected[1], f"expected {expected[1]!r}, found {text!r}")
            check(usage["prompt_tokens_details"]["cached_tokens"] > 60, f"expected restored tokens, found {usage}")
            check(server.metric("holo_text_restored_tokens_total") > 60, "expected restored tokens in /metrics")
            check(write(server, session, turns[2])[0] == expected[2], "expected the third text, too")
    with TextServer(a, "--sessions", f"{folder}/b", "--model-cache", "int8", *keys) as server:
        status, _, answer = server.ask(f"/v1/sessions/{session}", headers=one)
        check(status == 400 and "int8" in answer["error"]["message"], f"found {status} {answer}")
    with open(f"{folder}/b/{session}.session", "wb") as target:
        target.write(content[:-100])
    with TextServer(a, "--sessions", f"{folder}/b", *keys) as server:
        status, _, answer = server.ask(f"/v1/sessions/{session}", headers=one)
        check(status == 500 and "damaged" in answer["error"]["message"], f"found {status} {answer}")


def keys_are_asked_for(folder, a):
    with open(f"{folder}/keys", "w", encoding="utf-8") as file:
        file.write("# who may\nfirst\nsecond \n")
    with TextServer(a, "--api-key-file", f"{folder}/keys") as server:
        for key, status in ((None, 401), ("third", 401), ("first", 200), ("second", 200)):
            headers = {} if key is None else {"Authorization": f"Bearer {key}"}
            found = server.ask("/v1/models", headers=headers)
            check(found[0] == status, f"key {key}: expected {status}, found {found}")
        check(server.ask("/healthz")[0] == 200, "expected health without a key")
    with TextServer(a, "--api-key", "first", "--api-key", "second", "--max-per-client", "2") as server:
        body = {"prompt": "x", "n": 3, "max_tokens": 1}
        status, headers, answer = server.ask("/v1/completions", body, {"Authorization": "Bearer first"})
        check(status == 429 and headers["Retry-After"] and "at most 2" in answer["error"]["message"], f"found {answer}")
        status, _, answer = server.ask("/v1/completions", dict(body, n=2), {"Authorization": "Bearer second"})
        check(status == 200, f"expected 200, found {status} {answer}")


def hostile_requests_are_refused_and_cost_nothing(folder, a):
    with TextServer(a) as server:
        bodies = [b"", b"{", b"[" * 1000000, b"null", b'{"prompt":"\xff\xfe"}', b'{"prompt":"x","temperature":NaN}',
                  b'{"prompt":"x","max_tokens":1e400}', b'{"prompt":"x","prompt":"y"}', b'{"prompt":' + b"9" * 100000 + b"}",
                  json.dumps({"prompt": "x", "stop": ["s"] * 1000000}).encode(),
                  json.dumps({"prompt": "x" * 5000000}).encode(),
                  json.dumps({"prompt": "x", "logit_bias": {str(i): 1 for i in range(100000)}}).encode(),
                  json.dumps({"messages": [{"role": "user", "content": "x"}] * 100000}).encode()]
        for body in bodies:
            for path in ("/v1/completions", "/v1/chat/completions", "/tokenize", "/detokenize"):
                if path == "/tokenize" and body.startswith(b'{"prompt": "xxx'):
                    continue
                status, _, answer = server.ask(path, body)
                # What is a field of chat alone is none of the completions' business.
                expected = (400,) if path.startswith("/v1") and b"messages" not in body[:20] else (200, 400)
                check(status in expected and (status == 200 or answer["error"]["message"]),
                      f"{path} {body[:40]}: expected {expected}, found {status} {answer}")
        status, _, answer = server.ask("/v1/completions", b"x" * (100 << 20))
        check(status == 413 and answer["error"]["type"] == "invalid_request_error", f"found {status} {answer}")
        with socket.create_connection(("127.0.0.1", server.port("ws"))) as half:
            half.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
        status, _, answer = server.ask("/v1/completions", {"prompt": "x", "max_tokens": 1})
        check(status == 200, f"expected the server to go on, found {status} {answer}")
        server.ask("/v1/completions", {"model": "x\nforged \x1b[31m", "prompt": "x"})
        check("x\\x0aforged \\x1b[31m" in server.output(), f"expected one line of the log, found {server.output()}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--holo", required=True)
    parser.add_argument("--holod", required=True)
    parser.add_argument("--model", required=True)
    main([a_seed_gives_the_same_text_alone_in_a_batch_and_from_the_tool, scores_give_the_perplexity_of_the_tool,
          a_stream_has_the_same_text_and_ends_properly,
          the_next_turn_of_a_conversation_reads_only_what_is_new, who_goes_away_stops_the_text,
          a_full_queue_says_when_to_come_again_and_the_server_stays_alive, a_long_prompt_does_not_hold_up_others,
          a_signal_lets_texts_end_and_takes_no_more,
          the_chat_says_the_same_over_both_and_stops_replies,
          a_saved_session_survives_kill_and_goes_to_another_server, keys_are_asked_for, hostile_requests_are_refused_and_cost_nothing],
         parser.parse_args())
