// What OpenAI's own package for Node sees of holod. openai_client_node.py puts this file beside the package and starts
// holod for each test:
//
// node openai_client.mjs --list           the tests, and the arguments of holod that each wants, as JSON
// node openai_client.mjs NAME ADDRESS     one of them, with holod at http://HOST:PORT
import assert from "node:assert/strict";
import process from "node:process";
import { setTimeout as sleep } from "node:timers/promises";
import OpenAI from "openai";

let address = "";

function clientOf(apiKey = "none", options = {}) {
  return new OpenAI({ baseURL: `${address}/v1`, apiKey, maxRetries: 0, timeout: 120_000, ...options });
}

async function metric(name) {
  const text = await (await fetch(`${address}/metrics`)).text();
  const line = text.split("\n").find((candidate) => candidate.startsWith(`${name} `));
  return line === undefined ? undefined : Number(line.split(" ")[1]);
}

// Until holod says so; the one who started this program gives up at some time.
async function waitFor(name, isRight) {
  while (!isRight(await metric(name))) await sleep(20);
}

async function collect(stream) {
  const chunks = [];
  for await (const chunk of stream) chunks.push(chunk);
  return chunks;
}

// The error, which must be exactly of that class.
async function isRefused(kind, promise) {
  try {
    await promise;
  } catch (error) {
    assert.equal(error.constructor.name, kind.name, String(error));
    assert.ok(error instanceof kind && error instanceof OpenAI.OpenAIError);
    return error;
  }
  assert.fail(`expected ${kind.name}`);
}

// More than anything here waits for.
const endless = { model: "novelist", prompt: "x", max_tokens: 1000, n: 128, ignore_eos: true };

async function modelsAreListed() {
  const client = clientOf();
  const models = await collect(client.models.list());
  assert.deepEqual(models.map((model) => model.id), ["novelist"]);
  assert.equal(models[0].object, "model");
  assert.equal((await client.models.retrieve("novelist")).owned_by, "holo");
  const error = await isRefused(OpenAI.NotFoundError, client.models.retrieve("none"));
  assert.equal(error.code, "model_not_found");
}

async function completionsHaveEveryOption() {
  const client = clientOf();
  const ask = (options = {}) =>
    client.completions.create({ model: "novelist", prompt: "The old house", max_tokens: 12, seed: 3, ...options });
  const one = await ask();
  assert.equal(one.object, "text_completion");
  assert.match(one.choices[0].finish_reason, /^(length|stop)$/);
  assert.match(one._request_id, /^cmpl-/);
  assert.equal(one.usage.total_tokens, one.usage.prompt_tokens + one.usage.completion_tokens);
  assert.equal(typeof one.usage.prompt_tokens_details.cached_tokens, "number");
  assert.equal((await ask()).choices[0].text, one.choices[0].text, "expected the seed to decide");
  assert.notEqual((await ask({ seed: 4 })).choices[0].text, one.choices[0].text, "expected the seed to decide");

  const plain = await collect(await ask({ stream: true }));
  assert.equal(plain.map((chunk) => chunk.choices[0].text).join(""), one.choices[0].text);
  assert.equal(plain.at(-1).choices[0].finish_reason, one.choices[0].finish_reason);
  const chunks = await collect(await ask({ stream: true, stream_options: { include_usage: true } }));
  assert.deepEqual(chunks.at(-1).choices, []);
  assert.equal(chunks.at(-1).usage.completion_tokens, one.usage.completion_tokens);
  assert.equal(chunks.at(-1).usage.prompt_tokens, one.usage.prompt_tokens);
  assert.ok(chunks.slice(0, -1).every((chunk) => !chunk.usage), "expected usage at the end only");

  const several = await ask({ prompt: ["The old house", "She"], n: 2 });
  assert.deepEqual(several.choices.map((choice) => choice.index), [0, 1, 2, 3]);
  assert.equal(several.choices[0].text, one.choices[0].text, "expected the same text among several");
  const parts = ["", "", "", ""];
  for await (const chunk of await ask({ prompt: ["The old house", "She"], n: 2, stream: true })) {
    for (const choice of chunk.choices) parts[choice.index] += choice.text;
  }
  assert.deepEqual(parts, several.choices.map((choice) => choice.text));
  const best = await ask({ n: 1, best_of: 3 });
  assert.equal(best.choices.length, 1);
  assert.ok(best.usage.completion_tokens > 12, `found ${best.usage.completion_tokens}`);

  const echoed = (await ask({ echo: true, logprobs: 2 })).choices[0];
  assert.equal(echoed.text, `The old house${one.choices[0].text}`);
  assert.equal(echoed.logprobs.token_logprobs[0], null);
  assert.ok(echoed.logprobs.token_logprobs.slice(1).every((value) => value <= 0));
  assert.equal(echoed.logprobs.tokens.join(""), echoed.text);
  assert.ok([2, 3].includes(Object.keys(echoed.logprobs.top_logprobs[1]).length));
  assert.deepEqual(echoed.logprobs.text_offset.slice(0, 2), [0, 3]);
  const scored = await ask({ echo: true, logprobs: 1, max_tokens: 0 });
  assert.equal(scored.choices[0].text, "The old house");
  assert.equal(scored.usage.completion_tokens, 0);
  assert.deepEqual(scored.choices[0].logprobs.token_logprobs,
                   echoed.logprobs.token_logprobs.slice(0, scored.choices[0].logprobs.tokens.length));

  const whole = (await ask({ max_tokens: 40, temperature: 0 })).choices[0].text;
  const stop = whole.slice(30, 34);
  const before = await ask({ max_tokens: 40, temperature: 0, stop: [stop] });
  assert.equal(before.choices[0].text, whole.split(stop)[0]);
  assert.equal(before.choices[0].finish_reason, "stop");
  const forbidden = await ask({ max_tokens: 40, logit_bias: { 11: -100, 13: -100 } });
  assert.doesNotMatch(forbidden.choices[0].text, /[,.]/);
  await ask({ presence_penalty: 1.5, frequency_penalty: -1.5, top_p: 0.5, temperature: 0.3, user: "somebody" });

  const quoted = await ask({ prompt: "“I never — naïve", echo: true, max_tokens: 0 });
  assert.equal(quoted.choices[0].text, "“I never — naïve");
}

async function chatsHaveEveryOption() {
  const client = clientOf();
  const messages = [
    { role: "system", content: "You are kind." },
    { role: "user", content: "Who are you?" },
    { role: "assistant", content: "A friend." },
    { role: "user", content: [{ type: "text", text: "And whose?" }] },
  ];
  const body = { model: "novelist", messages, max_tokens: 30, seed: 5 };
  const ask = (options = {}) => client.chat.completions.create({ ...body, ...options });
  const one = await ask();
  assert.equal(one.object, "chat.completion");
  assert.equal(one.choices[0].message.role, "assistant");
  assert.ok(one.choices[0].message.content.length > 0, "expected an answer");
  assert.equal((await ask()).choices[0].message.content, one.choices[0].message.content);

  const chunks = await collect(await ask({ stream: true, stream_options: { include_usage: true } }));
  assert.equal(chunks[0].object, "chat.completion.chunk");
  assert.equal(chunks[0].choices[0].delta.role, "assistant");
  const text = chunks.map((chunk) => chunk.choices[0]?.delta.content ?? "").join("");
  assert.equal(text, one.choices[0].message.content);
  assert.equal(chunks.at(-2).choices[0].finish_reason, one.choices[0].finish_reason);
  assert.equal(chunks.at(-1).usage.total_tokens, one.usage.total_tokens);

  // The package's own reader of streams.
  const runner = client.chat.completions.stream({ ...body, stream_options: { include_usage: true } });
  let said = "";
  runner.on("content", (delta) => {
    said += delta;
  });
  const whole = await runner.finalChatCompletion();
  assert.equal(said, one.choices[0].message.content);
  assert.equal(whole.choices[0].message.content, said);
  assert.equal((await runner.totalUsage()).completion_tokens, one.usage.completion_tokens);

  const scored = await ask({ logprobs: true, top_logprobs: 3, max_tokens: undefined, max_completion_tokens: 4 });
  const content = scored.choices[0].logprobs.content;
  assert.ok(content.length >= 1 && content.length <= 4, `found ${content.length}`);
  for (const token of content) {
    assert.equal(token.top_logprobs.length, 3);
    assert.ok(token.logprob <= 0);
    assert.equal(Buffer.from(token.bytes).toString(), token.token);
  }
  assert.deepEqual((await ask({ n: 3 })).choices.map((choice) => choice.index), [0, 1, 2]);
  assert.ok((await ask({ response_format: { type: "text" }, top_p: 0.9, presence_penalty: 0.5 })).choices[0]);
}

async function sessionsGoOnThroughThePackagesOwnRequests() {
  const client = clientOf();
  const session = await client.post("/sessions", { body: { seed: 9 } });
  const ask = (options) =>
    client.completions.create({ model: "novelist", max_tokens: 20, ignore_eos: true, ...options });
  const first = await ask({ prompt: "The old house", session: session.id });
  assert.equal(first.choices[0].text, (await ask({ prompt: "The old house", seed: 9 })).choices[0].text);
  const second = await ask({ prompt: " She said", session: session.id });
  assert.ok(second.usage.prompt_tokens > first.usage.total_tokens, `found ${second.usage.prompt_tokens}`);
  assert.equal((await client.get(`/sessions/${session.id}`)).turns, 2);
  assert.equal((await client.delete(`/sessions/${session.id}`)).deleted, true);
  await isRefused(OpenAI.NotFoundError, client.get(`/sessions/${session.id}`));
}

async function errorsAreThePackagesOwn() {
  const client = clientOf("secret");
  const unknown = await isRefused(OpenAI.AuthenticationError, clientOf("other").models.list());
  assert.equal(unknown.status, 401);
  assert.equal(unknown.code, "invalid_api_key");
  const missing = await isRefused(OpenAI.NotFoundError, client.completions.create({ model: "none", prompt: "x" }));
  assert.equal(missing.status, 404);
  assert.equal(missing.param, "model");
  assert.match(missing.requestID, /^cmpl-/);
  const wrong = [
    [{ temperature: "hot" }, "temperature"],
    [{ n: 0 }, "n"],
    [{ suffix: "x" }, "suffix"],
    [{ prompt: [1, 2, 1e7] }, "prompt"],
    [{ prompt: "x ".repeat(3000) }, "prompt"],
    [{ stream: true, max_tokens: -1 }, "max_tokens"],
  ];
  for (const [options, param] of wrong) {
    const error = await isRefused(OpenAI.BadRequestError,
                                  client.completions.create({ model: "novelist", prompt: "x", ...options }));
    assert.equal(error.status, 400);
    assert.equal(error.param, param, JSON.stringify(options).slice(0, 80));
    assert.equal(error.type, "invalid_request_error");
  }
  const robot = { model: "novelist", messages: [{ role: "robot", content: "x" }] };
  await isRefused(OpenAI.BadRequestError, client.chat.completions.create(robot));
  const tools = { model: "novelist", messages: [{ role: "user", content: "x" }],
                  tools: [{ type: "function", function: { name: "f", parameters: {} } }] };
  assert.equal((await isRefused(OpenAI.BadRequestError, client.chat.completions.create(tools))).param, "tools");

  const before = await metric("holo_text_refused_total");
  const many = { model: "novelist", prompt: "x", max_tokens: 1, n: 3 };
  const limited = await isRefused(OpenAI.RateLimitError, clientOf("secret").completions.create(many));
  assert.equal(limited.status, 429);
  assert.equal(limited.type, "rate_limit_error");
  assert.ok(Number(limited.headers.get("retry-after")) >= 1);
  await isRefused(OpenAI.RateLimitError, clientOf("secret", { maxRetries: 1 }).completions.create(many));
  assert.equal(await metric("holo_text_refused_total"), before + 3, "expected the package to come again once");
}

async function whoIsRefusedForAFullQueueComesAgain() {
  const client = clientOf();
  const streams = [];
  for (let i = 0; i < 2; ++i) {
    streams.push(client.completions.create({ ...endless, stream: true }));
    await waitFor("holo_text_requests_total", (count) => count === i + 1);
    await waitFor("holo_text_running", (count) => count > 0);
  }
  const patient = clientOf("none", { maxRetries: 100 }).completions.create({ model: "novelist", prompt: "x",
                                                                            max_tokens: 1 });
  await waitFor("holo_text_refused_total", (count) => count > 0);
  for (const stream of streams) (await stream).controller.abort();
  assert.equal((await patient).choices.length, 1);
}

async function whoGoesAwayIsNoticed() {
  const client = clientOf();
  let cancelled = 0;
  const isCancelled = async () => {
    await waitFor("holo_text_running", (count) => count === 0);
    await waitFor("holo_text_queued", (count) => count === 0);
    assert.equal(await metric("holo_text_cancelled_total"), ++cancelled);
    assert.equal(await metric("holo_text_memory_bytes"), 0);
  };

  // By the stream's controller, which ends the loop once it has read what had come.
  const stream = await client.completions.create({ ...endless, stream: true });
  let chunks = 0;
  for await (const chunk of stream) {
    assert.ok(chunk.choices.length > 0);
    if (++chunks > 1) continue;
    assert.ok((await metric("holo_text_running")) > 0, "expected it to run");
    stream.controller.abort();
  }
  await isCancelled();

  // By leaving the loop.
  for await (const chunk of await client.completions.create({ ...endless, stream: true })) {
    assert.ok(chunk.choices.length > 0);
    break;
  }
  await isCancelled();

  // By a signal, while a whole answer is waited for.
  const own = new AbortController();
  const whole = client.completions.create(endless, { signal: own.signal });
  await waitFor("holo_text_running", (count) => count > 0);
  own.abort();
  await isRefused(OpenAI.APIUserAbortError, whole);
  await isCancelled();

  // A conversation, through the package's own reader.
  const runner = client.chat.completions.stream({ model: "novelist", messages: [{ role: "user", content: "Speak" }],
                                                  max_tokens: 900, n: 128, ignore_eos: true });
  runner.once("chunk", () => runner.abort());
  await isRefused(OpenAI.APIUserAbortError, runner.done());
  await isCancelled();

  // By a timeout. The first may pass before holod has seen anything.
  for (let timeout = 250; (await metric("holo_text_cancelled_total")) === cancelled; timeout *= 2) {
    await isRefused(OpenAI.APIConnectionTimeoutError, client.completions.create(endless, { timeout }));
    await waitFor("holo_text_running", (count) => count === 0);
    await waitFor("holo_text_queued", (count) => count === 0);
  }
  assert.equal((await client.completions.create({ model: "novelist", prompt: "x", max_tokens: 1 })).choices.length, 1);
}

async function manyClientsAtOnce() {
  const texts = await Promise.all(Array.from({ length: 32 }, async (_, i) => {
    const body = { model: "novelist", prompt: "It was", max_tokens: 20, seed: i % 4 };
    if (i % 2 === 0) return (await clientOf().completions.create(body)).choices[0].text;
    const chunks = await collect(await clientOf().completions.create({ ...body, stream: true }));
    return chunks.map((chunk) => chunk.choices[0].text).join("");
  }));
  texts.forEach((text, i) => assert.equal(text, texts[i % 4]));
  assert.equal(new Set(texts).size, 4, "expected another text for each seed");
}

const tests = [
  [modelsAreListed],
  [completionsHaveEveryOption],
  [chatsHaveEveryOption],
  [sessionsGoOnThroughThePackagesOwnRequests],
  [errorsAreThePackagesOwn, "--api-key", "secret", "--max-per-client", "2"],
  [whoIsRefusedForAFullQueueComesAgain, "--max-batch", "1", "--max-queue", "1"],
  [whoGoesAwayIsNoticed],
  [manyClientsAtOnce],
];

const [name, url] = process.argv.slice(2);
if (name === "--list") {
  console.log(JSON.stringify(tests.map(([test, ...wanted]) => [test.name, wanted])));
} else {
  address = url;
  await tests.find(([test]) => test.name === name)[0]();
}
