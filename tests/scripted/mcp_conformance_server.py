"""The tools, resources and prompts that the scenarios of ``@modelcontextprotocol/conformance`` ask of a server.

They are made with the official SDK; what the test mounts them with is the gateway's own endpoint, with sessions.
"""

from __future__ import annotations

import json
import warnings
from typing import Any

import anyio
import mcp_types as types
from mcp.server.lowlevel.server import Server
from mcp.shared.exceptions import MCPDeprecationWarning, MCPError

PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8DwHwAFBQIAX8jx0gAAAABJRU5ErkJggg=="
SOUND = "UklGRiQAAABXQVZFZm10IBAAAAABAAEAQB8AAEAfAAABAAgAZGF0YQAAAAA="
_TEXT: dict[str, Any] = {"type": "string"}
_NOTHING: dict[str, Any] = {"type": "object", "properties": {}}
_IMAGE = {"type": "image", "data": PIXEL, "mimeType": "image/png"}


def _schema(*required: str) -> dict[str, Any]:
    return {"type": "object", "properties": dict.fromkeys(required, _TEXT), "required": [*required]}


def _text(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


def _resource(uri: str, mime_type: str, text: str) -> dict[str, Any]:
    return {"type": "resource", "resource": {"uri": uri, "mimeType": mime_type, "text": text}}


CONTENTS: dict[str, list[dict[str, Any]]] = {
    "test_simple_text": [_text("This is a simple text response for testing.")],
    "test_image_content": [_IMAGE],
    "test_audio_content": [{"type": "audio", "data": SOUND, "mimeType": "audio/wav"}],
    "test_embedded_resource": [
        _resource("test://embedded-resource", "text/plain", "This is an embedded resource content.")
    ],
    "test_multiple_content_types": [
        _text("Multiple content types test:"),
        _IMAGE,
        _resource("test://mixed-content-resource", "application/json", '{"test":"data","value":123}'),
    ],
}
SCHEMAS: dict[str, dict[str, Any]] = {
    **dict.fromkeys(CONTENTS, _NOTHING),
    **dict.fromkeys(("test_tool_with_logging", "test_error_handling", "test_tool_with_progress"), _NOTHING),
    **dict.fromkeys(("test_elicitation_sep1034_defaults", "test_elicitation_sep1330_enums"), _NOTHING),
    "test_reconnection": _NOTHING,
    "test_sampling": _schema("prompt"),
    "test_elicitation": _schema("message"),
    "json_schema_2020_12_tool": {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "$defs": {"address": {"type": "object", "properties": {"street": _TEXT, "city": _TEXT}}},
        "properties": {"name": _TEXT, "address": {"$ref": "#/$defs/address"}},
        "additionalProperties": False,
    },
}
_DEFAULTS: dict[str, Any] = {
    "name": {**_TEXT, "default": "John Doe"},
    "age": {"type": "integer", "default": 30},
    "score": {"type": "number", "default": 95.5},
    "status": {**_TEXT, "enum": ["active", "inactive", "pending"], "default": "active"},
    "verified": {"type": "boolean", "default": True},
}
_OPTIONS = ["option1", "option2", "option3"]
_TITLED = [{"const": f"value{number}", "title": f"Option {number}"} for number in (1, 2, 3)]
_ENUMS: dict[str, Any] = {
    "untitledSingle": {**_TEXT, "enum": _OPTIONS},
    "titledSingle": {**_TEXT, "oneOf": _TITLED},
    "legacyEnum": {**_TEXT, "enum": ["opt1", "opt2", "opt3"], "enumNames": ["One", "Two", "Three"]},
    "untitledMulti": {"type": "array", "items": {**_TEXT, "enum": _OPTIONS}},
    "titledMulti": {"type": "array", "items": {"anyOf": _TITLED}},
}
PROMPTS: dict[str, tuple[str, ...]] = {
    "test_simple_prompt": (),
    "test_prompt_with_arguments": ("arg1", "arg2"),
    "test_prompt_with_embedded_resource": ("resourceUri",),
    "test_prompt_with_image": (),
}


async def _list_tools(ctx: Any, params: Any) -> types.ListToolsResult:
    tools = [{"name": name, "description": "For a scenario.", "inputSchema": each} for name, each in SCHEMAS.items()]
    return types.ListToolsResult.model_validate({"tools": tools})


async def _call_tool(ctx: Any, params: types.CallToolRequestParams) -> types.CallToolResult:
    content = CONTENTS.get(params.name)
    is_error = params.name == "test_error_handling"
    if is_error:
        content = [_text("This tool intentionally returns an error for testing")]
    elif content is None:
        content = [_text(await _work(ctx, params.name, params.arguments or {}))]
    return types.CallToolResult.model_validate({"content": content, "isError": is_error})


async def _work(ctx: Any, name: str, arguments: dict[str, Any]) -> str:
    session, related = ctx.session, ctx.request_id
    if name == "test_tool_with_logging":
        for text in ("Tool execution started", "Tool processing data", "Tool execution completed"):
            await session.send_log_message("info", text, related_request_id=related)
            await anyio.sleep(0.05)
    elif name == "test_tool_with_progress":
        for progress in (0, 50, 100):
            await session.report_progress(progress, 100)
            await anyio.sleep(0.05)
    elif name == "test_sampling":
        asked = types.SamplingMessage(role="user", content=types.TextContent(type="text", text=arguments["prompt"]))
        answer = await session.create_message([asked], max_tokens=100, related_request_id=related)
        return f"LLM response: {getattr(answer.content, 'text', '')}"
    elif name.startswith("test_elicitation"):
        return await _elicit(ctx, name, arguments)
    elif name == "test_reconnection":
        if ctx.close_sse_stream is not None:
            await ctx.close_sse_stream()
        await anyio.sleep(0.1)
    else:
        raise MCPError(types.INVALID_PARAMS, f"there is no tool '{name}'")
    return "done"


async def _elicit(ctx: Any, name: str, arguments: dict[str, Any]) -> str:
    properties: dict[str, Any] = {"username": _TEXT, "email": _TEXT}
    said, prefix = str(arguments.get("message", "Please answer")), "User response"
    if name != "test_elicitation":
        properties, prefix = (_DEFAULTS if "1034" in name else _ENUMS), "Elicitation completed"
    schema = {"type": "object", "properties": properties, "required": []}
    answer = await ctx.session.elicit(said, schema, related_request_id=ctx.request_id)
    return f"{prefix}: action={answer.action}, content={json.dumps(answer.content)}"


async def _list_resources(ctx: Any, params: Any) -> types.ListResourcesResult:
    resources = [
        {"uri": f"test://{name}", "name": name, "description": "For a scenario.", "mimeType": mime_type}
        for name, mime_type in (("static-text", "text/plain"), ("static-binary", "image/png"))
    ]
    return types.ListResourcesResult.model_validate({"resources": resources})


async def _list_templates(ctx: Any, params: Any) -> types.ListResourceTemplatesResult:
    template = {"uriTemplate": "test://template/{id}/data", "name": "template", "description": "For a scenario."}
    return types.ListResourceTemplatesResult.model_validate({"resourceTemplates": [template]})


async def _read(ctx: Any, params: types.ReadResourceRequestParams) -> types.ReadResourceResult:
    uri = str(params.uri)
    contents: dict[str, Any]
    if uri == "test://static-text":
        contents = {"mimeType": "text/plain", "text": "This is the content of the static text resource."}
    elif uri == "test://static-binary":
        contents = {"mimeType": "image/png", "blob": PIXEL}
    elif uri.startswith("test://template/"):
        identity = uri.removeprefix("test://template/").removesuffix("/data")
        data = {"id": identity, "templateTest": True, "data": f"Data for ID: {identity}"}
        contents = {"mimeType": "application/json", "text": json.dumps(data)}
    else:
        contents = {"mimeType": "text/plain", "text": "watched"}
    return types.ReadResourceResult.model_validate({"contents": [{"uri": uri, **contents}]})


async def _nothing(ctx: Any, params: Any) -> types.EmptyResult:
    return types.EmptyResult()


async def _list_prompts(ctx: Any, params: Any) -> types.ListPromptsResult:
    prompts = [
        {
            "name": name,
            "description": "For a scenario.",
            "arguments": [{"name": each, "description": "An argument.", "required": True} for each in arguments],
        }
        for name, arguments in PROMPTS.items()
    ]
    return types.ListPromptsResult.model_validate({"prompts": prompts})


async def _get_prompt(ctx: Any, params: types.GetPromptRequestParams) -> types.GetPromptResult:
    given = params.arguments or {}
    parts = {
        "test_simple_prompt": [_text("This is a simple prompt for testing.")],
        "test_prompt_with_arguments": [
            _text(f"Prompt with arguments: arg1='{given.get('arg1')}', arg2='{given.get('arg2')}'")
        ],
        "test_prompt_with_embedded_resource": [
            _resource(given.get("resourceUri", ""), "text/plain", "Embedded resource content for testing."),
            _text("Please process the embedded resource above."),
        ],
        "test_prompt_with_image": [_IMAGE, _text("Please analyze the image above.")],
    }[params.name]
    return types.GetPromptResult.model_validate({"messages": [{"role": "user", "content": part} for part in parts]})


async def _complete(ctx: Any, params: types.CompleteRequestParams) -> types.CompleteResult:
    return types.CompleteResult.model_validate({"completion": {"values": ["paris", "park"], "total": 2}})


def conformance_server() -> Server[Any]:
    """The SDK's server with all that the scenarios ask for."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MCPDeprecationWarning)  # the level of logging, which the scenarios still set
        return Server(
            "conformance",
            version="1",
            on_list_tools=_list_tools,
            on_call_tool=_call_tool,
            on_list_resources=_list_resources,
            on_list_resource_templates=_list_templates,
            on_read_resource=_read,
            on_subscribe_resource=_nothing,
            on_unsubscribe_resource=_nothing,
            on_list_prompts=_list_prompts,
            on_get_prompt=_get_prompt,
            on_completion=_complete,
            on_set_logging_level=_nothing,
        )
