#!/usr/bin/env python3
"""What OpenAI's own Python package sees of holod.

openai_client.py --holod PATH --model DIRECTORY --environment FOLDER

The package comes from PyPI into a virtual environment at FOLDER, once; where that cannot be had, the test is skipped
(exit code 77).
"""

import argparse
import os

PACKAGES = ["openai>=1.60,<3"]


def is_refused(kind, work):
    """The error, which must be of that kind."""
    from harness import Failure
    try:
        work()
    except kind as error:
        return error
    raise Failure(f"expected {kind.__name__}")


def models_are_listed(folder, a):
    with server_of(a) as server:
        client = client_of(server)
        names = [model.id for model in client.models.list()]
        check(names == ["novelist"], f"found {names}")
        check(client.models.retrieve("novelist").owned_by == "holo", "expected to find the model")
        error = is_refused(openai.NotFoundError, lambda: client.models.retrieve("none"))
        check(error.code == "model_not_found", f"found {error.code}")


def completions_have_every_option(folder, a):
    with server_of(a) as server:
        client = client_of(server)

        def ask(**options):
            return client.completions.create(**{"model": "novelist", "prompt": "The old house", "max_tokens": 12,
                                                "seed": 3, **options})
        one = ask()
        check(one.object == "text_completion" and one.choices[0].finish_reason in ("length", "stop"), f"found {one}")
        check(one.usage.total_tokens == one.usage.prompt_tokens + one.usage.completion_tokens, f"found {one.usage}")
        check(one.usage.prompt_tokens_details.cached_tokens is not None, f"found {one.usage}")
        check(ask().choices[0].text == one.choices[0].text, "expected the seed to decide")
        check("".join(chunk.choices[0].text for chunk in ask(stream=True)) == one.choices[0].text,
              "expected the same text in a stream")
        chunks = list(ask(stream=True, stream_options={"include_usage": True}))
        check(chunks[-1].usage == one.usage and not chunks[-1].choices, f"found {chunks[-1]}")
        check(all(chunk.usage is None for chunk in chunks[:-1]), "expected usage at the end only")
        several = ask(prompt=["The old house", "She"], n=2)
        check([choice.index for choice in several.choices] == [0, 1, 2, 3], f"found {several}")
        check(several.choices[0].text == one.choices[0].text, "expected the same text among several")
        best = ask(n=1, best_of=3)
        check(len(best.choices) == 1 and best.usage.completion_tokens > 12, f"found {best}")
        echoed = ask(echo=True, logprobs=2)
        check(echoed.choices[0].text == "The old house" + one.choices[0].text, f"found {echoed.choices[0].text}")
        logprobs = echoed.choices[0].logprobs
        check(logprobs.token_logprobs[0] is None and logprobs.token_logprobs[1] < 0, f"found {logprobs}")
        check("".join(logprobs.tokens) == echoed.choices[0].text, f"found {logprobs.tokens}")
        check(len(logprobs.top_logprobs[1]) in (2, 3), f"found {logprobs.top_logprobs[1]}")
        check(logprobs.text_offset[:2] == [0, 3], f"found {logprobs.text_offset}")
        scored = ask(echo=True, logprobs=1, max_tokens=0)
        check(scored.choices[0].text == "The old house" and scored.usage.completion_tokens == 0, f"found {scored}")
        check(scored.choices[0].logprobs.token_logprobs == logprobs.token_logprobs[:len(scored.choices[0].logprobs.tokens)],
              "expected the same scores of the prompt")
        whole = ask(max_tokens=40, temperature=0).choices[0].text
        stopped = ask(max_tokens=40, temperature=0, stop=[whole[30:34]])
        check(stopped.choices[0].text == whole.split(whole[30:34])[0], f"found {stopped}, without a stop {whole!r}")
        forbidden = ask(max_tokens=40, logit_bias={str(token): -100 for token in (11, 13)})
        check("," not in forbidden.choices[0].text and "." not in forbidden.choices[0].text, f"found {forbidden}")
        ask(presence_penalty=1.5, frequency_penalty=-1.5, top_p=0.5, temperature=0.3, user="somebody")


def chats_have_every_option(folder, a):
    with server_of(a) as server:
        client = client_of(server)
        messages = [{"role": "system", "content": "You are kind."}, {"role": "user", "content": "Who are you?"},
                    {"role": "assistant", "content": "A friend."},
                    {"role": "user", "content": [{"type": "text", "text": "And whose?"}]}]

        def ask(**options):
            return client.chat.completions.create(**{"model": "novelist", "messages": messages, "max_tokens": 30,
                                                     "seed": 5, **options})
        one = ask()
        check(one.object == "chat.completion" and one.choices[0].message.role == "assistant", f"found {one}")
        chunks = list(ask(stream=True, stream_options={"include_usage": True}))
        check(chunks[0].object == "chat.completion.chunk" and chunks[0].choices[0].delta.role == "assistant",
              f"found {chunks[0]}")
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
        check(text == one.choices[0].message.content, f"found {text}")
        check(chunks[-2].choices[0].finish_reason == one.choices[0].finish_reason, f"found {chunks[-2]}")
        check(chunks[-1].usage == one.usage, f"found {chunks[-1]}")
        scored = ask(logprobs=True, top_logprobs=3, max_completion_tokens=4)
        content = scored.choices[0].logprobs.content
        check(len(content) <= 4 and len(content[0].top_logprobs) == 3 and content[0].logprob < 0, f"found {content}")
        check(bytes(content[0].bytes).decode(errors="replace") == content[0].token, f"found {content[0]}")
        check([choice.index for choice in ask(n=3).choices] == [0, 1, 2], "expected three choices")
        check(ask(response_format={"type": "text"}, top_p=0.9, presence_penalty=0.5).choices, "expected an answer")


def errors_are_the_packages_own(folder, a):
    with server_of(a, "--api-key", "secret") as server:
        client = client_of(server, key="secret")
        error = is_refused(openai.AuthenticationError, lambda: client_of(server, key="other").models.list())
        check(error.status_code == 401 and error.code == "invalid_api_key", f"found {error}")
        error = is_refused(openai.NotFoundError, lambda: client.completions.create(model="none", prompt="x"))
        check(error.param == "model", f"found {error}")
        for wrong, param in (({"temperature": "hot"}, "temperature"), ({"n": 0}, "n"), ({"suffix": "x"}, "suffix"),
                             ({"prompt": [1, 2, 10 ** 7]}, "prompt"), ({"prompt": "x " * 3000}, "prompt")):
            error = is_refused(openai.BadRequestError,
                               lambda: client.completions.create(**{"model": "novelist", "prompt": "x", **wrong}))
            check(error.param == param and error.type == "invalid_request_error", f"{wrong}: found {error}")
        is_refused(openai.BadRequestError, lambda: client.chat.completions.create(
            model="novelist", messages=[{"role": "robot", "content": "x"}]))


def a_closed_stream_is_cancelled(folder, a):
    with server_of(a) as server:
        client = client_of(server)
        stream = client.completions.create(model="novelist", prompt="x", max_tokens=1000, n=16, stream=True,
                                           extra_body={"ignore_eos": True})
        next(iter(stream))
        check(server.metric("holo_text_running") > 0, "expected it to run")
        stream.close()
        server.wait_for("holo_text_running", 0)
        check(server.metric("holo_text_cancelled_total") == 1, "expected one cancelled request")


def many_clients_at_once(folder, a):
    import asyncio
    with server_of(a) as server:
        async def ask(client, i):
            answer = await client.completions.create(model="novelist", prompt="It was", max_tokens=20, seed=i % 4)
            return answer.choices[0].text

        async def ask_all():
            async with openai.AsyncOpenAI(base_url=url_of(server), api_key="none") as client:
                return await asyncio.gather(*(ask(client, i) for i in range(32)))
        texts = asyncio.run(ask_all())
        check(all(text == texts[i % 4] for i, text in enumerate(texts)), f"found {texts}")


def url_of(server):
    return server.addresses["http"] + "/v1"


def client_of(server, key="none"):
    return openai.OpenAI(base_url=url_of(server), api_key=key, max_retries=0, timeout=120)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--holod", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--environment", required=True)
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if not arguments.inside:
        from environment import enter
        enter(os.path.abspath(arguments.environment), PACKAGES, __file__)
    import openai

    from harness import check, main
    from texts import TextServer as server_of
    main([models_are_listed, completions_have_every_option, chats_have_every_option, errors_are_the_packages_own,
          a_closed_stream_is_cancelled, many_clients_at_once], arguments)
