"""A chat's whole answer as the output of a response."""

from __future__ import annotations

from collections.abc import Container, Sequence
from typing import Any

from sage.middleware.gateway.tools.server_tool import ToolRun
from sage.middleware.gateway.vector_stores.citations import cite
from sage.middleware.providers.wire.json_values import first_object, objects
from sage.middleware.providers.wire.messages import finish_of, plain_text, read_message
from sage.middleware.routers.openai.responses import resource
from sage.middleware.routers.openai.responses.request import ENCRYPTED, ResponsesRequest
from sage.middleware.routers.openai.responses.server_tools import ServerTools, run_item


def complete(request: ResponsesRequest, response: dict[str, Any], chat: dict[str, Any]) -> dict[str, Any]:
    """``response`` with what the ``chat`` has answered."""
    try:
        choice = chat["choices"][0]
        text = plain_text(choice["message"])
    except (LookupError, TypeError, AttributeError):  # it is not of the usual form
        text = None
    if text is not None and choice.get("finish_reason") == "stop" and not choice.get("logprobs"):  # nearly every answer
        output = [resource.message_item(resource.item_id("msg", response["id"], 0), [resource.text_part(text)])]
        return resource.ended(response, output, "stop", chat.get("usage"), chat.get("service_tier"))
    choice = first_object(chat.get("choices"))
    finish = finish_of(choice)
    output = output_items(request, response["id"], choice, 0, incomplete=finish in ("length", "content_filter"))
    return resource.ended(response, output, finish, chat.get("usage"), chat.get("service_tier"))


def complete_steps(
    request: ResponsesRequest,
    response: dict[str, Any],
    chat: dict[str, Any],
    steps: Sequence[dict[str, Any] | ToolRun],
    tools: ServerTools,
    output: list[dict[str, Any]],
) -> dict[str, Any]:
    """The same for an answer of several ``steps``, in which ``tools`` of the gateway have run; ``output`` are the items
    before them."""
    choices = objects(chat.get("choices"))
    finish = finish_of(choices[0]) if choices else None
    for step in steps:
        if isinstance(step, ToolRun):
            output.append(run_item(request, response["id"], len(output), step))
            continue
        incomplete = step is steps[-1] and finish in ("length", "content_filter")
        items = output_items(
            request, response["id"], {"message": step}, len(output), incomplete=incomplete, own=tools.names
        )
        for item in items:
            _cite(item, tools.found)
        output += items
    return resource.ended(response, output, finish, chat.get("usage"), chat.get("service_tier"))


def _cite(item: dict[str, Any], found: Sequence[dict[str, Any]]) -> None:
    """Makes annotations of the marks of citations in a message."""
    for part in item.get("content", ()) if found and item["type"] == "message" else ():
        if part["type"] == "output_text":
            part["text"], part["annotations"] = cite(part["text"], found)


def output_items(
    request: ResponsesRequest,
    response: str,
    choice: dict[str, Any],
    number: int,
    *,
    incomplete: bool = False,
    own: Container[str] = (),
) -> list[dict[str, Any]]:
    """The items that ``choice`` adds to the output; the first has that ``number`` in it. Calls of the gateway's ``own``
    tools are none of them."""
    sent = choice.get("message")
    message, blocks = read_message(sent), objects(sent.get("thinking_blocks") if isinstance(sent, dict) else None)
    items: list[dict[str, Any]] = []
    if message.reasoning or blocks:
        name, encrypted = resource.item_id("rs", response, number), ENCRYPTED in request.include
        items.append(
            resource.reasoning_item(name, message.reasoning, blocks, summarised=request.summarised, encrypted=encrypted)
        )
    content = []
    if message.text or not (message.refusal or message.calls or items):
        content.append(resource.text_part(message.text, resource.logprob_list(choice.get("logprobs"))))
    if message.refusal and message.refusal != message.text:
        content.append(resource.refusal_part(message.refusal))
    status = "incomplete" if incomplete else "completed"
    if content:
        items.append(resource.message_item(resource.item_id("msg", response, number + len(items)), content, status))
    for call in message.calls:
        if call.name in own:
            continue
        tool = request.tools.of(call.name)
        items.append(resource.call_item(response, number + len(items), tool, call.id, call.arguments, status))
    return items
