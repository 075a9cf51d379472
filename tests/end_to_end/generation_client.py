#!/usr/bin/env python3
"""What gRPC's own Python packages, with stubs that they generate, see of holo.v1.Generation.

generation_client.py --holod PATH --model DIRECTORY --proto FOLDER --environment FOLDER

The packages come from PyPI into a virtual environment, once; where they cannot be had, the test is skipped (exit code
77). The stubs are generated from FOLDER/holo/v1/generation.proto in each run.
"""

import argparse
import os
import queue
import signal
import sys
import tempfile

PACKAGES = ["grpcio>=1.60,<2", "grpcio-tools>=1.60,<2", "grpcio-reflection>=1.60,<2"]
# So much that nothing here waits for its end.
ENDLESS = {"max_tokens": 1000, "ignores_end_token": True, "choices": 128, "seed": 1}
MODEL = "novelist"


def generate_stubs(proto, folder):
    from grpc_tools import protoc
    code = protoc.main(["protoc", f"--proto_path={proto}", f"--python_out={folder}", f"--grpc_python_out={folder}",
                        os.path.join(proto, "holo/v1/generation.proto")])
    check(code == 0, f"protoc: expected exit code 0, found {code}")
    sys.path.insert(0, folder)


class Client:
    """A channel and the generated stub, until the end of a with block."""

    def __init__(self, server, key=None):
        self.address = f"127.0.0.1:{server.port('grpc')}"
        self.metadata = [] if key is None else [("authorization", f"Bearer {key}")]

    def __enter__(self):
        self.channel = grpc.insecure_channel(self.address)
        self.stub = generation_pb2_grpc.GenerationStub(self.channel)
        return self

    def __exit__(self, _, error, __):
        self.channel.close()
        if isinstance(error, grpc.RpcError):
            raise Failure(f"expected an answer, found {error.code().name}: {error.details()}") from error

    def ask(self, method, request, **options):
        """Any call but Chat: the answer, or the list of them."""
        answer = getattr(self.stub, method)(request, metadata=self.metadata, **options)
        return list(answer) if method == "Generate" else answer

    def write(self, prompt=None, session="", model="", tokens=None, messages=None, **options):
        """A text, whole."""
        return Text(self.ask("Generate", request_of(prompt, session, model, tokens, messages, **options)))

    def chat(self, **options):
        return Conversation(self, **options)


def request_of(prompt=None, session="", model="", tokens=None, messages=None, **options):
    request = pb.GenerateRequest(model=model, session=session, options=pb.GenerationOptions(**options))
    if prompt is not None:
        request.text = prompt
    if tokens is not None:
        request.tokens.ids.extend(tokens)
    if messages is not None:
        roles = {"system": pb.ChatMessage.ROLE_SYSTEM, "user": pb.ChatMessage.ROLE_USER,
                 "assistant": pb.ChatMessage.ROLE_ASSISTANT}
        request.messages.messages.extend(
            pb.ChatMessage(role=roles[message["role"]], content=message["content"]) for message in messages)
    return request


class Text:
    """What a stream of answers says, which must end with the usage."""

    def __init__(self, answers):
        self.answers = answers
        check(answers and answers[-1].HasField("usage"), f"expected usage at the end, found {answers[-1:]}")
        check(not any(answer.HasField("usage") for answer in answers[:-1]), "expected usage once")
        self.usage = answers[-1].usage
        self.texts, self.finishes = {}, {}
        for answer in answers[:-1]:
            check(answer.choice not in self.finishes, f"choice {answer.choice}: expected nothing behind its end")
            self.texts[answer.choice] = self.texts.get(answer.choice, "") + answer.text
            if answer.finish:
                self.finishes[answer.choice] = pb.GenerateResponse.Finish.Name(answer.finish)
        self.prompt = [token for answer in answers for token in answer.prompt]
        self.tokens = [token for answer in answers for token in answer.tokens]

    def __getattr__(self, name):
        """Of a single choice."""
        if name not in ("text", "finish"):
            raise AttributeError(name)
        check(set(self.finishes) == {0}, f"expected one choice and its end, found {self.finishes}")
        return self.texts[0] if name == "text" else self.finishes[0]


class Conversation:
    """Chat, one message after the other."""

    def __init__(self, client, model="", system="", **options):
        self.requests = queue.SimpleQueue()
        self.call = client.stub.Chat(iter(self.requests.get, None), metadata=client.metadata)
        self.requests.put(pb.ChatRequest(start=pb.ChatRequest.Start(model=model, system=system,
                                                                    options=pb.GenerationOptions(**options))))

    def say(self, message):
        self.requests.put(pb.ChatRequest(message=message))

    def stop(self):
        self.requests.put(pb.ChatRequest(stop=pb.ChatRequest.Stop()))

    def end(self):
        self.requests.put(None)

    def reply(self):
        """Up to the usage."""
        answers = []
        for answer in self.call:
            answers.append(answer)
            if answer.HasField("usage"):
                break
        return answers

    def code(self):
        """How it ended."""
        self.end()
        try:
            for _ in self.call:
                pass
        except grpc.RpcError:
            pass
        return self.call.code().name


def is_refused(code, work, detail=""):
    """The call must fail so, or so where there are two codes, with a message that has `detail`."""
    try:
        work()
    except grpc.RpcError as error:
        check(error.code().name in code.split() and detail in error.details(),
              f"expected {code} and {detail!r}, found {error.code().name}: {error.details()}")
        return
    raise Failure(f"expected {code} and {detail!r}, found an answer")


# Every call, in a form that the server accepts.
def calls(session):
    return {"Models": pb.ModelsRequest(), "Generate": request_of("x", max_tokens=1), "Tokenize": pb.TokenizeRequest(),
            "Detokenize": pb.DetokenizeRequest(), "CreateSession": pb.CreateSessionRequest(),
            "GetSession": pb.GetSessionRequest(id=session), "ListSessions": pb.ListSessionsRequest(),
            "SaveSession": pb.SaveSessionRequest(id=session), "DeleteSession": pb.DeleteSessionRequest(id=session)}


def reflection_describes_the_service(_, a):
    with TextServer(a) as server, Client(server) as client:
        database = ProtoReflectionDescriptorDatabase(client.channel)
        services = set(database.get_services())
        check({"holo.v1.Generation", "holo.v1.Streaming", "grpc.health.v1.Health"} <= services, f"found {services}")
        # As the generated stubs have it, with comments and their positions left out.
        found, expected = (descriptor_pb2.FileDescriptorProto() for _ in range(2))
        found.CopyFrom(database.FindFileContainingSymbol("holo.v1.Generation"))
        pb.DESCRIPTOR.CopyToProto(expected)
        check(found.service == expected.service, f"expected {expected.service}, found {found.service}")
        names = [[message.name for message in file.message_type] for file in (expected, found)]
        check(names[0] == names[1], f"expected messages {names[0]}, found {names[1]}")
        for mine, theirs in zip(expected.message_type, found.message_type):
            fields = [[(field.name, field.number, field.type, field.label, field.type_name) for field in message.field]
                      for message in (mine, theirs)]
            check(fields[0] == fields[1], f"{mine.name}: expected {fields[0]}, found {fields[1]}")
        # A client that knows nothing but what the server says of itself.
        pool = descriptor_pool.DescriptorPool(database)
        method = pool.FindServiceByName("holo.v1.Generation").FindMethodByName("Tokenize")
        request, response = (message_factory.GetMessageClass(kind) for kind in (method.input_type, method.output_type))
        call = client.channel.unary_unary("/holo.v1.Generation/Tokenize", request.SerializeToString,
                                          response.FromString)
        expected = client.ask("Tokenize", pb.TokenizeRequest(text="The old house")).tokens
        check(list(call(request(text="The old house")).tokens) == list(expected), "expected the same tokens")
        health = client.channel.unary_unary("/grpc.health.v1.Health/Check")
        check(health(b"") == b"\x08\x01", "expected SERVING")


def models_and_tokens_are_those_of_http(_, a):
    with TextServer(a) as server, Client(server) as client:
        models = client.ask("Models", pb.ModelsRequest()).models
        listed = server.ask("/v1/models")[2]["data"]
        found = [(model.name, model.context, model.cache, model.bytes_per_token, model.chat_template)
                 for model in models]
        check(found == [(model["id"], model["max_model_len"], model["cache"]["method"],
                         model["cache"]["bytes_per_token"], model["chat_template"]["name"]) for model in listed],
              f"expected {listed}, found {found}")
        check([model.name for model in models] == [MODEL], f"found {found}")
        for text in ("The old house", "", " “I never” — naïve, 家, \U0001f3e0\n\n", "a" * 100000):
            tokens = client.ask("Tokenize", pb.TokenizeRequest(model=MODEL, text=text)).tokens
            check(list(tokens) == server.ask("/tokenize", {"content": text})[2]["tokens"],
                  f"{text[:20]!r}: expected the tokens of HTTP")
            back = client.ask("Detokenize", pb.DetokenizeRequest(model=MODEL, tokens=tokens)).text
            check(back == text, f"expected {text[:20]!r}, found {back[:20]!r}")
        half = client.ask("Tokenize", pb.TokenizeRequest(text="家")).tokens[:1]
        back = client.ask("Detokenize", pb.DetokenizeRequest(tokens=half)).text
        check(back == "\ufffd", f"expected a replaced character, found {back!r}")
        is_refused("INVALID_ARGUMENT", lambda: client.ask("Detokenize", pb.DetokenizeRequest(tokens=[5, 10 ** 9])),
                   "tokens: ")
        for method, request in (("Tokenize", pb.TokenizeRequest(model="none")),
                                ("Detokenize", pb.DetokenizeRequest(model="none")),
                                ("CreateSession", pb.CreateSessionRequest(model="none")),
                                ("Generate", request_of("x", model="none"))):
            is_refused("NOT_FOUND", lambda: client.ask(method, request), "model: ")


def texts_are_those_of_http(_, a):
    with TextServer(a) as server, Client(server) as client:
        for seed, prompt in enumerate(PROMPTS):
            body = {"prompt": prompt, "max_tokens": 40, "seed": seed, "temperature": 0.9, "top_p": 0.95, "top_k": 50,
                    "repetition_penalty": 1.1, "presence_penalty": 0.5, "frequency_penalty": 0.25,
                    "logit_bias": {"13": -5}}
            expected = server.complete(**body)
            found = client.write(**{**body, "logit_bias": {13: -5}})
            check(found.text == expected["choices"][0]["text"], f"expected {expected}, found {found.text!r}")
            finish = {"length": "FINISH_LENGTH", "stop": "FINISH_STOP"}[expected["choices"][0]["finish_reason"]]
            check(found.finish == finish, f"expected {finish}, found {found.finish}")
            check((found.usage.prompt_tokens, found.usage.completion_tokens) ==
                  (expected["usage"]["prompt_tokens"], expected["usage"]["completion_tokens"]), f"found {found.usage}")
        tokens = client.ask("Tokenize", pb.TokenizeRequest(text=PROMPTS[0])).tokens
        options = {"max_tokens": 20, "ignores_end_token": True}
        text = client.write(PROMPTS[0], seed=3, **options).text
        check(client.write(tokens=tokens, seed=3, **options).text == text, "expected the same text of tokens")
        check(client.write(PROMPTS[0], seed=4, **options).text != text, "expected another text of another seed")
        check(len({client.write(PROMPTS[0], **options).text for _ in range(8)}) > 1, "expected texts by chance")
        several = client.write(PROMPTS[0], choices=4, seed=3, **options)
        check([several.texts[i] for i in range(4)] ==
              [client.write(PROMPTS[0], seed=3 + i, **options).text for i in range(4)], f"found {several.texts}")
        check(several.usage.completion_tokens == 80 and several.usage.prompt_tokens == len(tokens),
              f"found {several.usage}")
        for _ in range(2):
            again = client.write("The old house by the sea " * 20, max_tokens=1, seed=1)
        check(0 < again.usage.cached_tokens < again.usage.prompt_tokens, f"expected cached tokens, found {again.usage}")

        # Pieces come as they are written.
        pieces = client.ask("Generate", request_of(PROMPTS[0], seed=3, **options))
        check(len(pieces) > 10, f"expected most tokens to come alone, found {len(pieces)} pieces")
        whole = client.write(PROMPTS[0], max_tokens=40, temperature=0).text
        stop = whole[30:34]
        stopped = client.write(PROMPTS[0], max_tokens=40, temperature=0, stops=["\u1234", stop])
        check(stopped.text == whole.split(stop)[0] and stopped.finish == "FINISH_STOP", f"found {stopped.texts}")
        read = client.write(PROMPTS[0], max_tokens=0)
        check(read.text == "" and read.usage.completion_tokens == 0, f"found {read.answers}")

        messages = [{"role": "system", "content": "You are kind."}, {"role": "user", "content": "Who are you?"},
                    {"role": "assistant", "content": "A friend."}, {"role": "user", "content": "And whose?"}]
        status, _, answer = server.ask("/v1/chat/completions", {"messages": messages, "max_tokens": 30, "seed": 5})
        check(status == 200, f"found {answer}")
        found = client.write(messages=messages, max_tokens=30, seed=5)
        check(found.text == answer["choices"][0]["message"]["content"], f"expected {answer}, found {found.text!r}")


def log_probabilities_are_those_of_http(_, a):
    with TextServer(a) as server, Client(server) as client:
        body = {"prompt": "The old house — stood", "max_tokens": 12, "seed": 3}
        expected = server.complete(**body, logprobs=2, echo=True)["choices"][0]["logprobs"]
        found = client.write(**body, logprobs=2, scores_prompt=True)
        scored = [*found.prompt, *found.tokens]
        check(not scored[0].HasField("logprob") and not scored[0].top,
              f"expected no score of the first, found {scored[0]}")
        # JSON writes doubles of the floats.
        check([token.logprob for token in scored[1:]] == [as_float(value) for value in expected["token_logprobs"][1:]],
              f"expected {expected}, found {scored}")
        check(len(found.tokens) == found.usage.completion_tokens, f"found {found.usage}")
        check(b"".join(token.text for token in found.tokens).decode() == found.text, f"found {found.tokens}")
        check(b"".join(token.text for token in found.prompt).decode() == body["prompt"], f"found {found.prompt}")
        ids = client.ask("Tokenize", pb.TokenizeRequest(text=body["prompt"])).tokens
        check([token.id for token in found.prompt] == list(ids), f"expected {ids}, found {found.prompt}")
        for token in scored[1:]:
            check(len(token.top) == 2 and token.top[0].logprob >= token.top[1].logprob, f"found {token}")
        none = client.write(**body)
        check(none.text == found.text and not none.tokens and not none.prompt, f"found {none.answers}")
        bare = client.write(**body, logprobs=0)
        check([token.logprob for token in bare.tokens] == [token.logprob for token in found.tokens] and
              not any(token.top for token in bare.tokens), f"found {bare.tokens}")


def as_float(value):
    return pb.ScoredToken(logprob=value).logprob


def a_conversation_is_that_of_http(_, a):
    with TextServer(a) as server, Client(server) as client:
        options = {"max_tokens": 30, "seed": 5}
        conversation = client.chat(system="You are kind.", **options)
        messages = [{"role": "system", "content": "You are kind."}]
        for turn, message in enumerate(("Who are you?", "And whose?", "Since when?")):
            conversation.say(message)
            if turn == 2:
                conversation.end()  # what was asked is still answered
            reply = Text(conversation.reply())
            messages.append({"role": "user", "content": message})
            answer = server.ask("/v1/chat/completions", {"messages": messages, "max_tokens": 30, "seed": 5 + turn})[2]
            check(reply.text == answer["choices"][0]["message"]["content"], f"expected {answer}, found {reply.text!r}")
            check(reply.usage.prompt_tokens == answer["usage"]["prompt_tokens"], f"found {reply.usage}")
            messages.append({"role": "assistant", "content": reply.text})
        check(conversation.code() == "OK", f"found {conversation.call.code()}")

        # Replies of this model end soon: one is caught while it is written.
        for _ in range(200):
            conversation = client.chat(max_tokens=1000, temperature=1.8, ignores_end_token=True, logprobs=1)
            conversation.say("Speak")
            answers = [next(conversation.call)]
            check(answers[0].tokens and answers[0].tokens[0].top, f"expected scores, found {answers[0]}")
            conversation.stop()
            answers += conversation.reply()
            if answers[-1].finish == pb.GenerateResponse.FINISH_CANCELLED:
                break
            conversation.end()
        else:
            check(False, "expected a reply to be stopped")
        conversation.stop()  # nothing is being said
        conversation.say("And?")
        reply = Text(conversation.reply())
        check(reply.usage.prompt_tokens > answers[-1].usage.prompt_tokens, f"found {reply.usage}")
        check(conversation.code() == "OK", f"found {conversation.call.code()}")
        server.wait_for("holo_text_running", 0)


def a_reply_that_waits_can_be_stopped(_, a):
    with TextServer(a, "--max-batch", "1") as server, Client(server) as client:
        # While this one is written, the replies only wait.
        other = client.stub.Generate(request_of("x", **ENDLESS))
        next(other)
        conversation = client.chat(**{**ENDLESS, "choices": 1})
        for _ in range(20):
            conversation.say("Speak")
            conversation.stop()
            reply = conversation.reply()
            check(len(reply) == 1 and reply[0].finish == pb.GenerateResponse.FINISH_CANCELLED,
                  f"expected an end at once, found {len(reply)} answers, the last {reply[-1:]}")
        conversation.say("Speak")
        server.wait_for("holo_text_queued", 1)
        conversation.say("Quick")
        check(conversation.code() == "INVALID_ARGUMENT", f"found {conversation.call.code()}")
        check(conversation.call.details().startswith("message: "), f"found {conversation.call.details()}")
        server.wait_for("holo_text_queued", 0)
        check(server.metric("holo_text_running") == 1, "expected the other text to go on")
        other.cancel()
        server.wait_for("holo_text_running", 0)


def errors_have_their_codes(_, a):
    with TextServer(a) as server, Client(server) as client:
        nan = float("nan")
        for field, options in (("temperature", {"temperature": -1}), ("temperature", {"temperature": nan}),
                               ("top_p", {"top_p": 2}), ("top_p", {"top_p": 0}), ("n", {"choices": 1000}),
                               ("repetition_penalty", {"repetition_penalty": 0}),
                               ("presence_penalty", {"presence_penalty": nan}),
                               ("frequency_penalty", {"frequency_penalty": 3}), ("logprobs", {"logprobs": 1000}),
                               ("logit_bias", {"logit_bias": {10 ** 7: 1}}), ("logit_bias", {"logit_bias": {5: nan}}),
                               ("stop", {"stops": ["x"] * 1000}), ("stop", {"stops": [""]})):
            is_refused("INVALID_ARGUMENT", lambda: client.write("x", **{"max_tokens": 1, **options}), field)
        is_refused("INVALID_ARGUMENT", lambda: client.write(), "prompt: ")
        is_refused("INVALID_ARGUMENT", lambda: client.write(tokens=[]), "prompt: ")
        is_refused("INVALID_ARGUMENT", lambda: client.write(tokens=[10 ** 7]), "prompt: ")
        is_refused("INVALID_ARGUMENT", lambda: client.write(messages=[]), "prompt: ")
        wrong = request_of(messages=[{"role": "user", "content": "x"}] * 2)
        wrong.messages.messages[1].role = pb.ChatMessage.ROLE_UNSPECIFIED
        is_refused("INVALID_ARGUMENT", lambda: client.ask("Generate", wrong), "messages[1].role: ")
        wrong.messages.messages[1].role = 77
        is_refused("INVALID_ARGUMENT", lambda: client.ask("Generate", wrong), "messages[1].role: ")
        is_refused("OUT_OF_RANGE", lambda: client.write("x " * 3000), "prompt: ")
        is_refused("NOT_FOUND", lambda: client.write("x", session="none"), "session")
        is_refused("RESOURCE_EXHAUSTED", lambda: client.ask("Tokenize", pb.TokenizeRequest(text="x" * (9 << 20))))
        is_refused("UNIMPLEMENTED", lambda: client.channel.unary_unary("/holo.v1.Generation/None")(b""))
        # No message of this kind: a length beyond the end, and bytes that are no text. gRPC itself refuses them, with a
        # code that depends on its version.
        for data in (b"\x0a\xff\xff\xff\xff\x0f", b"\x12\x02\xff\xfe"):
            is_refused("INTERNAL UNIMPLEMENTED",
                       lambda: client.channel.unary_unary("/holo.v1.Generation/Tokenize")(data))

        for first, field in ((pb.ChatRequest(message="x"), "start: "), (pb.ChatRequest(), "start: "),
                             (pb.ChatRequest(stop=pb.ChatRequest.Stop()), "start: "),
                             (pb.ChatRequest(start=pb.ChatRequest.Start(options=pb.GenerationOptions(choices=2))),
                              "start.options.choices: ")):
            is_refused("INVALID_ARGUMENT", lambda: list(client.stub.Chat(iter([first]))), field)
        start = pb.ChatRequest(start=pb.ChatRequest.Start())
        is_refused("INVALID_ARGUMENT", lambda: list(client.stub.Chat(iter([start, start]))), "start: ")
        is_refused("INVALID_ARGUMENT", lambda: list(client.stub.Chat(iter([start, pb.ChatRequest()]))), "request: ")
        start.start.model = "none"
        is_refused("NOT_FOUND", lambda: list(client.stub.Chat(iter([start]))), "model: ")
        conversation = client.chat()
        conversation.say("x " * 3000)
        check(conversation.code() == "OUT_OF_RANGE", f"found {conversation.call.code()}")
        check(list(client.stub.Chat(iter([]))) == [], "expected nothing of a conversation without a word")
        check(client.write("x", max_tokens=1, ignores_end_token=True).usage.completion_tokens == 1,
              "expected an answer")
        check(server.metric("holo_text_failed_total") == 0, "expected no failures of the server")


def keys_are_asked_for(folder, a):
    with open(f"{folder}/keys", "w", encoding="utf-8") as file:
        file.write("# who may\nfirst\nsecond \n")
    with TextServer(a, "--api-key-file", f"{folder}/keys", "--sessions", f"{folder}/sessions") as server:
        with Client(server, "first") as client:
            session = client.ask("CreateSession", pb.CreateSessionRequest()).id
        names = {method.name for method in pb.DESCRIPTOR.services_by_name["Generation"].methods}
        check(names == {"Chat", *calls(session)}, f"expected every call to be tried, found {names}")
        for key in (None, "third", "", "first ,second"):
            with Client(server, key) as client:
                for method, request in calls(session).items():
                    is_refused("UNAUTHENTICATED", lambda: client.ask(method, request))
                check(client.chat().code() == "UNAUTHENTICATED", f"{key}: expected Chat to be refused")
        with Client(server) as client:
            client.metadata = [("authorization", "first")]
            is_refused("UNAUTHENTICATED", lambda: client.ask("Models", pb.ModelsRequest()))
        for key in ("second", "first"):
            with Client(server, key) as client:
                for method, request in calls(session).items():
                    if key == "second" and method in ("GetSession", "SaveSession", "DeleteSession"):
                        is_refused("NOT_FOUND", lambda: client.ask(method, request), "session")
                    else:
                        client.ask(method, request)
                check(client.chat().code() == "OK", f"{key}: expected Chat to be allowed")


def sessions_go_on_as_over_http(folder, a):
    turns = [{"prompt": "The old house stood on the hill, and nobody had lived in it for a hundred years. ",
              "max_tokens": 60},
             {"prompt": " In the morning", "max_tokens": 40}, {"prompt": " She said", "max_tokens": 40}]
    with TextServer(a) as server, Client(server) as client:
        other = server.ask("/v1/sessions", {"seed": 11})[2]["id"]
        expected = [server.complete(**turn, session=other, ignore_eos=True)["choices"][0]["text"] for turn in turns]
        session = client.ask("CreateSession", pb.CreateSessionRequest(seed=11)).id
        is_refused("FAILED_PRECONDITION", lambda: client.ask("SaveSession", pb.SaveSessionRequest(id=session)),
                   "session")
        # Some turns over HTTP, some here.
        check(client.write(**turns[0], session=session, ignores_end_token=True).text == expected[0],
              "expected the text of HTTP")
        text = server.complete(**turns[1], session=session, ignore_eos=True)["choices"][0]["text"]
        check(text == expected[1], "expected HTTP to go on with it")
        check(client.write(**turns[2], session=session, ignores_end_token=True).text == expected[2],
              "expected to go on with what came over HTTP")

        for request, field in ((request_of("x", session=session, choices=2), "session: "),
                               (request_of("x", session=session, scores_prompt=True), "session: "),
                               (request_of("x", session=session, model="none"), "model: "),
                               (request_of(session=session, messages=[{"role": "user", "content": "x"}]), "session: ")):
            is_refused("INVALID_ARGUMENT", lambda: client.ask("Generate", request), field)
        check(client.ask("GetSession", pb.GetSessionRequest(id=session)).turns == 3,
              "expected refused turns not to count")

    with TextServer(a, "--sessions", f"{folder}/saved", "--max-batch", "1") as server, Client(server) as client:
        before = client.ask("CreateSession", pb.CreateSessionRequest(model=MODEL, seed=11))
        check((before.model, before.turns, before.tokens, before.is_saved) == (MODEL, 0, 0, False), f"found {before}")
        check(0 < before.created_unix <= before.used_unix, f"found {before}")
        found = client.write(**turns[0], session=before.id, ignores_end_token=True)
        check(found.text == expected[0], f"expected {expected[0]!r}, found {found.text!r}")
        saved = client.ask("SaveSession", pb.SaveSessionRequest(id=before.id))
        check(saved.is_saved and saved.turns == 1 and saved.parked_bytes > 0, f"found {saved}")
        check(saved.tokens == found.usage.prompt_tokens + found.usage.completion_tokens, f"found {saved}")
        check(client.ask("GetSession", pb.GetSessionRequest(id=before.id)) == saved, "expected to find it so")

        # Nobody else goes on with it meanwhile. It waits behind another text, so that it cannot come to its end.
        other = client.stub.Generate(request_of("x", **ENDLESS))
        next(other)
        busy = client.stub.Generate(request_of("x", session=before.id, max_tokens=10))
        server.wait_for("holo_text_queued", 1)
        for method, request in (("Generate", request_of("x", session=before.id)),
                                ("SaveSession", pb.SaveSessionRequest(id=before.id)),
                                ("DeleteSession", pb.DeleteSessionRequest(id=before.id))):
            is_refused("ABORTED", lambda: client.ask(method, request), "session")
        busy.cancel()
        server.wait_for("holo_text_queued", 0)
        other.cancel()
        server.wait_for("holo_text_running", 0)
        check(client.ask("GetSession", pb.GetSessionRequest(id=before.id)).turns == 1,
              "expected nothing of what was cancelled")

    with TextServer(a, "--sessions", f"{folder}/saved") as server, Client(server) as client:
        listed = client.ask("ListSessions", pb.ListSessionsRequest()).sessions
        check([(entry.id, entry.turns, entry.is_saved) for entry in listed] == [(before.id, 1, True)],
              f"found {listed}")
        found = client.write(**turns[1], session=before.id, ignores_end_token=True)
        check(found.text == expected[1], f"expected {expected[1]!r}, found {found.text!r}")
        check(found.usage.cached_tokens > 60, f"expected restored tokens, found {found.usage}")
        check(not client.ask("GetSession", pb.GetSessionRequest(id=before.id)).is_saved,
              "expected it to differ from its file")
        client.ask("DeleteSession", pb.DeleteSessionRequest(id=before.id))
        for method, request in calls(before.id).items():
            if method in ("GetSession", "SaveSession", "DeleteSession"):
                is_refused("NOT_FOUND", lambda: client.ask(method, request), "session")
        check(os.listdir(f"{folder}/saved") == [], "expected its file to be gone")

        # A conversation: only what is new is said.
        chat = client.ask("CreateSession", pb.CreateSessionRequest(seed=5)).id
        messages = []
        for turn, content in enumerate(("Who are you?", "And whose?")):
            new = [{"role": "user", "content": content}]
            found = client.write(messages=new, session=chat, max_tokens=30)
            messages += new
            check(found.text == client.write(messages=messages, seed=5 + turn, max_tokens=30).text,
                  f"expected the text of the whole conversation, found {found.text!r}")
            messages.append({"role": "assistant", "content": found.text})


def a_full_queue_refuses(_, a):
    with TextServer(a, "--max-batch", "1", "--max-queue", "1") as server, Client(server) as client:
        streams = []
        for i in range(2):
            streams.append(client.stub.Generate(request_of("x", **ENDLESS)))
            server.wait_for("holo_text_requests_total", i + 1)
            server.wait_for("holo_text_running", 1)
        server.wait_for("holo_text_queued", 1)
        is_refused("RESOURCE_EXHAUSTED", lambda: client.write("x"))
        conversation = client.chat()
        conversation.say("x")
        check(conversation.code() == "RESOURCE_EXHAUSTED", f"found {conversation.call.code()}")
        check(client.ask("Models", pb.ModelsRequest()).models, "expected the server to answer what is no text")
        for stream in streams:
            stream.cancel()
        server.wait_for("holo_text_queued", 0)
        server.wait_for("holo_text_running", 0)
        check(client.write("x", max_tokens=1).usage.prompt_tokens == 1, "expected room for another one")
    with TextServer(a, "--api-key", "first", "--api-key", "second", "--max-per-client", "2") as server:
        with Client(server, "first") as client:
            is_refused("RESOURCE_EXHAUSTED", lambda: client.write("x", choices=3, max_tokens=1), "at most 2")
            check(len(client.write("x", choices=2, max_tokens=1).finishes) == 2, "expected two texts")


def who_goes_away_is_noticed(_, a):
    with TextServer(a, "--max-batch", "1") as server:
        def is_idle():
            server.wait_for("holo_text_running", 0)
            server.wait_for("holo_text_queued", 0)
            check(server.metric("holo_text_memory_bytes") == 0, "expected no memory to be held")

        def cancelled():
            return server.metric("holo_text_cancelled_total")

        with Client(server) as client:
            # The first is being written, the second waits.
            streams = [client.stub.Generate(request_of("x", **ENDLESS))]
            next(streams[0])
            streams.append(client.stub.Generate(request_of("x", **ENDLESS)))
            server.wait_for("holo_text_queued", 1)
            for stream in reversed(streams):
                stream.cancel()
                is_refused("CANCELLED", lambda: list(stream))
            is_idle()
            check(cancelled() == 2, f"expected two cancelled requests, found {cancelled()}")

            # In the middle of a conversation, behind another text, so that its reply cannot come to its end.
            other = client.stub.Generate(request_of("x", **ENDLESS))
            next(other)
            conversation = client.chat()
            conversation.say("Speak")
            server.wait_for("holo_text_queued", 1)
            conversation.call.cancel()
            check(conversation.code() == "CANCELLED", f"found {conversation.call.code()}")
            server.wait_for("holo_text_queued", 0)
            check(cancelled() == 3, f"expected three cancelled requests, found {cancelled()}")
            other.cancel()
            is_idle()

            # A deadline, of what is written and of what waits. The first may pass before the server has seen anything.
            for has_other in (False, True):
                other = None
                if has_other:
                    other = client.stub.Generate(request_of("x", **ENDLESS))
                    next(other)
                before, timeout = cancelled(), 0.1
                while cancelled() == before:
                    is_refused("DEADLINE_EXCEEDED", lambda: list(
                        client.stub.Generate(request_of("x", **ENDLESS), timeout=timeout)))
                    server.wait_for("holo_text_queued", 0)
                    server.wait_for("holo_text_running", 1 if has_other else 0)
                    timeout *= 2
                if has_other:
                    other.cancel()
                    is_idle()

            # The same for a conversation.
            before, timeout = cancelled(), 0.1
            other = client.stub.Generate(request_of("x", **ENDLESS))
            next(other)
            while cancelled() == before:
                requests = [pb.ChatRequest(start=pb.ChatRequest.Start()), pb.ChatRequest(message="Speak")]
                is_refused("DEADLINE_EXCEEDED", lambda: list(client.stub.Chat(iter(requests), timeout=timeout)))
                server.wait_for("holo_text_queued", 0)
                timeout *= 2
            other.cancel()
            is_idle()

        # The connection goes.
        before = cancelled()
        with Client(server) as client:
            next(client.stub.Generate(request_of("x", **ENDLESS)))
        is_idle()
        check(cancelled() == before + 1, f"expected {before + 1}, found {cancelled()}")
        with Client(server) as client:
            check(client.write("x", max_tokens=1).usage.prompt_tokens == 1, "expected the server to go on")


def many_calls_at_once(_, a):
    with TextServer(a) as server:
        expected = [server.complete(prompt=PROMPTS[i], max_tokens=30, seed=i)["choices"][0]["text"]
                    for i in range(len(PROMPTS))]

        async def ask(stub, i):
            parts = []
            which = i % len(PROMPTS)
            async for answer in stub.Generate(request_of(PROMPTS[which], max_tokens=30, seed=which)):
                parts.append(answer.text)
            return "".join(parts)

        async def ask_all():
            async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port('grpc')}") as channel:
                stub = generation_pb2_grpc.GenerationStub(channel)
                return await asyncio.gather(*(ask(stub, i) for i in range(48)))
        texts = asyncio.run(ask_all())
        check(all(text == expected[i % len(PROMPTS)] for i, text in enumerate(texts)),
              f"expected {expected}, found {texts}")


def a_signal_lets_texts_end_and_takes_no_more(_, a):
    with TextServer(a, "--shutdown-timeout", "600") as server, Client(server) as client:
        stream = client.stub.Generate(request_of("x", max_tokens=1000, choices=8, ignores_end_token=True, seed=1))
        answers = [next(stream)]
        server.process.send_signal(signal.SIGTERM)
        while True:
            try:
                client.write("x", max_tokens=1)
            except grpc.RpcError as error:
                check(error.code().name == "UNAVAILABLE", f"found {error.code()} {error.details()}")
                break
        text = Text(answers + list(stream))
        check(text.usage.completion_tokens == 8000 and len(text.finishes) == 8,
              f"expected all of it, found {text.usage}")
        server.process.wait(timeout=60)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--holod", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--proto", required=True)
    parser.add_argument("--environment", required=True)
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if not arguments.inside:
        from environment import enter
        enter(os.path.abspath(arguments.environment), PACKAGES, __file__)
    import asyncio

    import grpc
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
    from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

    from harness import Failure, check, main
    from texts import PROMPTS, TextServer
    with tempfile.TemporaryDirectory(prefix="holo_stubs_") as stubs:
        generate_stubs(arguments.proto, stubs)
        from holo.v1 import generation_pb2 as pb
        from holo.v1 import generation_pb2_grpc
        main([reflection_describes_the_service, models_and_tokens_are_those_of_http, texts_are_those_of_http,
              log_probabilities_are_those_of_http, a_conversation_is_that_of_http,
              a_reply_that_waits_can_be_stopped, errors_have_their_codes, keys_are_asked_for,
              sessions_go_on_as_over_http, a_full_queue_refuses, who_goes_away_is_noticed, many_calls_at_once,
              a_signal_lets_texts_end_and_takes_no_more], arguments)
