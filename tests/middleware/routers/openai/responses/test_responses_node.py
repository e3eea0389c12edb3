"""SDKs for Node at ``/v1/responses``: OpenAI's own, and Vercel's ``ai`` with ``@ai-sdk/openai``, which asks there."""

from __future__ import annotations

from typing import Any

import pytest
from node_packages import needs_node, run_module
from running_gateway import Running
from upstream import Received, Script, Upstream, chat_chunk, reply, stream, usage, usage_chunk

pytestmark = [pytest.mark.slow, needs_node]


def weatherman(request: Received) -> Script:
    """Asks for the weather where there is a tool for it, then tells it."""
    body = request.body
    if body is None:  # which models there are
        return reply({"object": "list", "data": []})
    last = body["messages"][-1]
    said: dict[str, Any] = {"content": "Hello there."}
    if last["role"] == "tool":
        said = {"content": f"It is {last['content']}."}
    elif "tools" in body:
        function = {"name": "weather", "arguments": '{"city":"Paris"}'}
        said = {"tool_calls": [{"index": 0, "id": "c1", "type": "function", "function": function}]}
    finish = "tool_calls" if "tool_calls" in said else "stop"
    if body.get("stream"):
        first, space, rest = said.get("content", "").partition(" ")
        pieces = [{"content": first}, {"content": space + rest}] if rest else [said]
        deltas = [chat_chunk(None, choices=[{"index": 0, "delta": each, "finish_reason": None}]) for each in pieces]
        return stream([*deltas, chat_chunk(None, finish), usage_chunk(9, 5)])
    choice = {"index": 0, "message": {"role": "assistant", "content": None, **said}, "finish_reason": finish}
    return reply({"id": "x", "object": "chat.completion", "model": "m", "choices": [choice], "usage": usage(9, 5)})


OWN = """
import OpenAI from 'openai';
const client = new OpenAI({baseURL: process.env.URL + '/v1', apiKey: process.env.KEY, maxRetries: 0});
const tools = [{type: 'function', name: 'weather', strict: false,
  parameters: {type: 'object', properties: {city: {type: 'string'}}}}];
const plain = await client.responses.create({model: 'bench', input: 'Hi', instructions: 'Brief.'});
const kept = await client.responses.retrieve(plain.id);
const kinds = [];
const streamed = client.responses.stream({model: 'bench', input: 'Hi', store: false});
for await (const event of streamed) kinds.push(event.type);
const final = await streamed.finalResponse();
const called = await client.responses.create({model: 'bench', input: 'Weather?', tools});
const output = [{type: 'function_call_output', call_id: called.output[0].call_id, output: 'sunny'}];
const told = await client.responses.create(
  {model: 'bench', tools, input: output, previous_response_id: called.id});
let refused = null;
try { await client.responses.create({model: 'bench', input: 'Hi', tools: [{type: 'web_search'}]}); }
catch (error) { refused = [error instanceof OpenAI.BadRequestError, error.status, error.param]; }
const same = JSON.stringify(kept.output) === JSON.stringify(plain.output);
console.log(JSON.stringify({plain: plain.output_text, same, usage: plain.usage,
  kinds, final: final.output_text, called: called.output, told: told.output_text, refused}));
"""


def test_openais_own(running: Running, up: Upstream) -> None:
    up.handler = weatherman
    told = run_module(OWN, URL=running.url, KEY=running.key)
    assert (told["plain"], told["same"]) == ("Hello there.", True)
    assert (told["usage"]["input_tokens"], told["usage"]["output_tokens"]) == (9, 5)
    assert (told["kinds"][0], told["kinds"][-1]) == ("response.created", "response.completed")
    assert told["kinds"].count("response.output_text.delta") == 2
    assert told["final"] == "Hello there."
    (call,) = told["called"]
    assert (call["type"], call["name"], call["arguments"]) == ("function_call", "weather", '{"city":"Paris"}')
    assert told["told"] == "It is sunny."
    assert told["refused"] == [True, 400, "tools[0].type"]
    assert [message["role"] for message in up.requests[0].body["messages"]] == ["system", "user"]
    assert [message["role"] for message in up.requests[-1].body["messages"]] == ["user", "assistant", "tool"]


VERCEL = """
import {createOpenAI} from '@ai-sdk/openai';
import {APICallError, generateText, jsonSchema, stepCountIs, streamText, tool} from 'ai';
const provider = createOpenAI({baseURL: process.env.URL + '/v1', apiKey: process.env.KEY});
const weather = tool({
  description: 'The weather.',
  inputSchema: jsonSchema({type: 'object', properties: {city: {type: 'string'}}}),
  execute: async ({city}) => city + ' sunny',
});
const ask = {model: provider('bench'), maxOutputTokens: 50, maxRetries: 0, prompt: 'Hi'};
const plain = await generateText(ask);
const looped = await generateText({...ask, tools: {weather}, stopWhen: stepCountIs(3)});
const stream = streamText({...ask, tools: {weather}, stopWhen: stepCountIs(3)});
let text = '';
for await (const piece of stream.textStream) text += piece;
let refused = null;
try { await generateText({...ask, model: provider('nobody')}); }
catch (error) { refused = [APICallError.isInstance(error), error.statusCode, error.message]; }
const used = await stream.totalUsage;
console.log(JSON.stringify({plain: plain.text, looped: looped.text, steps: looped.steps.length, text,
  finish: await stream.finishReason, input: used.inputTokens, output: used.outputTokens, refused}));
"""


def test_vercels(running: Running, up: Upstream) -> None:
    up.handler = weatherman
    told = run_module(VERCEL, URL=running.url, KEY=running.key)
    assert (told["plain"], told["looped"], told["steps"]) == ("Hello there.", "It is Paris sunny.", 2)
    assert (told["text"], told["finish"]) == ("It is Paris sunny.", "stop")
    assert (told["input"], told["output"]) == (18, 10)
    assert told["refused"][:2] == [True, 404]
    assert "nobody" in told["refused"][2]
    assert {request.path for request in up.requests if request.body is not None} == {"/v1/chat/completions"}
