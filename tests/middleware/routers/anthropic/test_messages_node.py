"""SDKs for Node at ``/v1/messages``: Anthropic's own, and Vercel's ``ai`` with ``@ai-sdk/anthropic``."""

from __future__ import annotations

from typing import Any

import pytest
from node_packages import needs_node, run_module
from shared_gateway import PATIENT
from upstream import Received, Script, Upstream, chat_chunk, reply, stream, usage_chunk

pytestmark = [pytest.mark.slow, needs_node]

PIXEL = "iVBORw0KGgo="


def sections(up: Upstream) -> dict[str, Any]:
    providers = {"up0": {"kind": "openai", "base_url": up.url, "api_key": "sk-upstream"}}
    models = {"bench": {"deployments": [{"provider": "up0", "model": "theirs"}]}}
    return {"llm": {"providers": providers, "models": models, "routing": PATIENT}}


def weatherman(request: Received) -> Script:
    """Asks for the weather, then tells it."""
    body = request.body
    streams, known = bool(body.get("stream")), body["messages"][-1]["role"] == "tool"
    function = {"name": "weather", "arguments": '{"city":"Paris"}'}
    call = {"index": 0, "id": "c1", "type": "function", "function": function}
    said: dict[str, Any] = {"content": f"It is {body['messages'][-1]['content']}."} if known else {"tool_calls": [call]}
    finish = "stop" if known else "tool_calls"
    if "tools" not in body:
        said, finish = {"content": "Hello there."}, "stop"
    if streams:
        delta = chat_chunk(None, choices=[{"index": 0, "delta": said, "finish_reason": None}])
        return stream([delta, chat_chunk(None, finish), usage_chunk(9, 5)])
    choice = {"index": 0, "message": {"role": "assistant", "content": None, **said}, "finish_reason": finish}
    counted = {"prompt_tokens": 9, "completion_tokens": 5, "total_tokens": 14}
    return reply({"id": "x", "object": "chat.completion", "model": "m", "choices": [choice], "usage": counted})


OWN = """
import Anthropic from '@anthropic-ai/sdk';
const client = new Anthropic({baseURL: process.env.URL, apiKey: process.env.KEY, maxRetries: 0});
const image = {type: 'image', source: {type: 'base64', media_type: 'image/png', data: process.env.PIXEL}};
const messages = [{role: 'user', content: [{type: 'text', text: 'Hi'}, image]}];
const tools = [{name: 'weather', input_schema: {type: 'object', properties: {city: {type: 'string'}}}}];
const ask = {model: 'bench', max_tokens: 50, messages};
const plain = await client.messages.create(ask);
const streamed = client.messages.stream({...ask, tools});
const kinds = [];
streamed.on('streamEvent', event => kinds.push(event.type));
const called = await streamed.finalMessage();
const results = [{type: 'tool_result', tool_use_id: called.content[0].id, content: 'sunny'}];
const history = [...messages, {role: 'assistant', content: called.content}, {role: 'user', content: results}];
const told = await client.messages.create({...ask, tools, messages: history});
let refused = null;
try { await client.messages.create({...ask, model: 'nobody'}); }
catch (error) { refused = [error instanceof Anthropic.NotFoundError, error.status, error.error.error.type]; }
const count = await client.messages.countTokens({model: 'bench', messages});
const names = [];
for await (const model of client.models.list({limit: 1})) names.push(model.id);
console.log(JSON.stringify({plain, kinds, called, told: told.content, refused, count, names}));
"""


def test_anthropics_own(running: Any, up: Upstream) -> None:
    up.handler = weatherman
    told = run_module(OWN, URL=running.url, KEY=running.key, PIXEL=PIXEL)
    assert told["plain"]["content"] == [{"type": "text", "text": "Hello there."}]
    assert told["plain"]["usage"]["input_tokens"] == 9
    assert (told["kinds"][0], told["kinds"][-2:]) == ("message_start", ["message_delta", "message_stop"])
    assert told["called"]["content"] == [
        {"type": "tool_use", "id": "c1", "name": "weather", "input": {"city": "Paris"}}
    ]
    assert told["called"]["stop_reason"] == "tool_use"
    assert told["told"] == [{"type": "text", "text": "It is sunny."}]
    assert told["refused"] == [True, 404, "not_found_error"]
    assert told["count"]["input_tokens"] > 0
    assert {"bench", "gemma-3-270m"} <= set(told["names"])
    assert up.requests[0].body["messages"][0]["content"][1] == {
        "type": "image_url",
        "image_url": {"url": f"data:image/png;base64,{PIXEL}"},
    }


VERCEL = """
import {createAnthropic} from '@ai-sdk/anthropic';
import {APICallError, generateText, jsonSchema, stepCountIs, streamText, tool} from 'ai';
const provider = createAnthropic({baseURL: process.env.URL + '/v1', apiKey: process.env.KEY});
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
const usage = await stream.totalUsage;
console.log(JSON.stringify({plain: plain.text, looped: looped.text, steps: looped.steps.length, text,
  finish: await stream.finishReason, input: usage.inputTokens, output: usage.outputTokens, refused}));
"""


def test_vercels(running: Any, up: Upstream) -> None:
    up.handler = weatherman
    told = run_module(VERCEL, URL=running.url, KEY=running.key)
    assert (told["plain"], told["looped"], told["steps"]) == ("Hello there.", "It is Paris sunny.", 2)
    assert (told["text"], told["finish"]) == ("It is Paris sunny.", "stop")
    assert (told["input"], told["output"]) == (18, 10)
    assert told["refused"][:2] == [True, 404]
    assert "nobody" in told["refused"][2]
