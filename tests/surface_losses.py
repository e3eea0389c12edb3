"""What a chat of OpenAI's shape loses on its way through another surface's shape and back, and docs/surfaces.md.

Each :class:`Loss` says in words what is lost, and does to a chat (or an answer) what the way there and back does: a
property test compares any chat's way with all of them together, and another each one's with its example. So the table
names neither too little nor too much. ``KEPT`` says which features of a surface are tested over which kinds of
provider.

``python tests/surface_losses.py --write`` writes the tables of docs/surfaces.md and docs/zh/surfaces.md anew; without
``--write`` it only says which page is stale, and fails if one is.
"""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import response_losses as responses
from project import ROOT

Chat = dict[str, Any]
PAGES = (ROOT / "docs" / "surfaces.md", ROOT / "docs" / "zh" / "surfaces.md")
BEGIN, END = "<!-- made by tests/surface_losses.py: begin -->", "<!-- made by tests/surface_losses.py: end -->"
SURFACES = {"messages": "Messages", "responses": "Responses"}


@dataclass(frozen=True)
class Loss:
    """One thing that is not kept. ``apply`` changes a copy of a chat, or of an answer, in place; it changes
    ``example``. ``refused``: it is a 400 that names the field, unless the model has ``drop_unsupported``."""

    surface: str
    what: str
    becomes: str
    chinese: tuple[str, str]
    """``what`` and ``becomes`` in Chinese."""
    example: Chat
    apply: Callable[[Chat], None]
    answer: bool = False
    """It is lost of an answer, not of a question."""
    refused: bool = False


def expected(value: Chat, losses: Iterable[Loss]) -> Chat:
    """``value`` after its way there and back, as ``losses`` have it, which are applied in their order."""
    changed = copy.deepcopy(value)
    for loss in losses:
        loss.apply(changed)
    return changed


def chat(*messages: Chat, **fields: Any) -> Chat:
    """An example: a question, before it ``messages``."""
    return {"model": "m", "max_tokens": 4000, "messages": [*messages, {"role": "user", "content": "Hi"}], **fields}


def _drop(*fields: str) -> Callable[[Chat], None]:
    def apply(value: Chat) -> None:
        for field in fields:
            value.pop(field, None)

    return apply


def _drop_neutral(value: Chat) -> None:
    for field, neutral in (("temperature", 1), ("top_p", 1), ("parallel_tool_calls", True)):
        if value.get(field) == neutral:
            del value[field]
    for tool in value.get("tools", ()):
        if tool["function"].get("strict") is False:
            del tool["function"]["strict"]


def _first_system(value: Chat) -> None:
    systems = [each for each in value["messages"] if each["role"] in ("system", "developer")]
    others = [each for each in value["messages"] if each["role"] not in ("system", "developer")]
    if systems:
        content = [part for each in systems for part in _parts(each["content"])]
        value["messages"] = [{"role": "system", "content": content}, *others]


def _one_text(value: Chat) -> None:
    for message in value["messages"]:
        if isinstance(message["content"], list) and _is_one_text(message["content"]):
            message["content"] = message["content"][0]["text"]


def _parts(content: Any) -> list[Any]:
    if isinstance(content, list):
        return content
    return [{"type": "text", "text": content}] if content else []


def _is_one_text(parts: list[Any]) -> bool:
    return len(parts) == 1 and parts[0].keys() == {"type", "text"}


def _no_blanks(value: Chat) -> None:
    """An answer without its blank text has its calls and thoughts, or is nothing; in the words of others blank parts
    go where there is more."""
    messages = []
    for message in value["messages"]:
        content = message["content"]
        if isinstance(content, list):
            message["content"] = [part for part in content if not _is_blank(part)] or content
        elif message["role"] == "assistant" and content is not None and not content.strip():
            message["content"] = None if message.get("tool_calls") else ""
            if not message.get("tool_calls") and not message.get("thinking_blocks"):
                continue
        messages.append(message)
    value["messages"] = messages


def _is_blank(part: Chat) -> bool:
    return part["type"] == "text" and not part["text"].strip()


def _join_turns(value: Chat) -> None:
    joined: list[Chat] = []
    for message in value["messages"]:
        if joined and joined[-1]["role"] == message["role"] == "user":
            joined[-1]["content"] = [*_parts(joined[-1]["content"]), *_parts(message["content"])]
        else:
            joined.append(message)
    value["messages"] = joined


def _compact_arguments(value: Chat) -> None:
    for message in value["messages"]:
        for call in message.get("tool_calls", ()):
            function = call["function"]
            function["arguments"] = json.dumps(
                json.loads(function["arguments"]), separators=(",", ":"), ensure_ascii=False
            )


def _signed_alone(value: Chat) -> None:
    for message in value["messages"]:
        message.pop("reasoning_content", None)
        thoughts = [block["thinking"] for block in message.get("thinking_blocks", ()) if "thinking" in block]
        if thoughts:
            message["reasoning_content"] = "\n\n".join(thoughts)


def _stops_as_list(value: Chat) -> None:
    if isinstance(value.get("stop"), str):
        value["stop"] = [value["stop"]]


def _one_bound(value: Chat) -> None:
    bound = value.pop("max_completion_tokens", None) or value.get("max_tokens")
    value["max_tokens"] = bound or 64_000


def _closed(value: Chat) -> None:
    if "response_format" in value:
        value["response_format"]["json_schema"]["schema"].setdefault("additionalProperties", False)
    for tool in value.get("tools", ()):
        if tool["function"].get("strict"):
            tool["function"]["parameters"].setdefault("additionalProperties", False)


def _choice_among_tools(value: Chat) -> None:
    if not value.get("tools"):
        value.pop("tool_choice", None)
        value.pop("parallel_tool_calls", None)
    elif value.get("tool_choice") == "none" or value.get("parallel_tool_calls") is not False:
        value.pop("parallel_tool_calls", None)
    elif "tool_choice" not in value:
        value["tool_choice"] = "auto"


def _named_tools(value: Chat) -> None:
    """A conversation with calls needs the tools that were called."""
    called = [call["function"]["name"] for each in value["messages"] for call in each.get("tool_calls", ())]
    if called and not value.get("tools"):
        value["tools"] = [
            {"type": "function", "function": {"name": name, "parameters": {"type": "object"}}}
            for name in dict.fromkeys(called)
        ]
        value["tool_choice"] = "none"


def _trim_last(value: Chat) -> None:
    last = value["messages"][-1]
    if last["role"] == "assistant" and isinstance(last["content"], str):
        last["content"] = last["content"].rstrip()


def _new_head(value: Chat) -> None:
    value.pop("object", None)
    value.pop("created", None)
    value.pop("system_fingerprint", None)
    value["id"] = "msg_" + value["id"].removeprefix("chatcmpl-").removeprefix("msg_")


def _one_choice(value: Chat) -> None:
    del value["choices"][1:]


def _no_logprobs(value: Chat) -> None:
    value["choices"][0]["logprobs"] = None


CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
CALLED = ({"role": "user", "content": "Go"}, {"role": "assistant", "content": None, "tool_calls": [CALL]},
          {"role": "tool", "tool_call_id": "c1", "content": "1"})  # fmt: skip
ANSWER: Chat = {
    "id": "chatcmpl-7",
    "object": "chat.completion",
    "model": "m",
    "choices": [
        {"index": 0, "message": {"role": "assistant", "content": "a"}, "logprobs": None, "finish_reason": "stop"}
    ],
    "usage": {"prompt_tokens": 9, "completion_tokens": 5, "total_tokens": 14},
}
MESSAGES, RESPONSES = "messages", "responses"
LOSSES = (
    Loss(MESSAGES, "`seed`, `n` above 1, `logprobs`, `logit_bias`, penalties", "refused by name",
         ("`seed`、大于 1 的 `n`、`logprobs`、`logit_bias`、惩罚项", "按名称拒绝"),
         chat(seed=3), _drop("seed", "n", "logprobs", "frequency_penalty"), refused=True),
    Loss(MESSAGES, "`metadata`, `store`, `service_tier`", "left out: the answer is the same without them",
         ("`metadata`、`store`、`service_tier`", "省略：没有它们答案也相同"),
         chat(store=True), _drop("metadata", "store", "service_tier")),
    Loss(MESSAGES, "values that ask for what happens anyway (`temperature: 1`…)", "left out",
         ("要求默认行为的值（`temperature: 1`……）", "省略"),
         chat(temperature=1), _drop_neutral),
    Loss(MESSAGES, "where `system` and `developer` messages stand, and which of the two they are",
         "one `system` before all others, a part for each",
         ("`system` 与 `developer` 消息的位置，以及它们是哪一种", "合成最前面的一条 `system`，各占一个部分"),
         chat({"role": "developer", "content": "Be brief."}), _first_system),
    Loss(MESSAGES, "texts of white space alone (Unicode's: U+0085, U+00A0… too) in answers, and beside other parts",
         "left out: Anthropic refuses them",
         ("回答中以及其他部分旁边只有空白（Unicode 空白，含 U+0085、U+00A0 等）的文本", "省略：Anthropic 拒绝它们"),
         chat({"role": "user", "content": "One"}, {"role": "assistant", "content": "\x85"}), _no_blanks),
    Loss(MESSAGES, "messages of the user that follow each other", "one message with the parts of all",
         ("相邻的多条用户消息", "合成一条消息，包含全部部分"),
         chat({"role": "user", "content": "One"}), _join_turns),
    Loss(MESSAGES, "whether a text is `content` itself or its only part", "it is `content` itself",
         ("文本是 `content` 本身还是它唯一的部分", "成为 `content` 本身"),
         chat({"role": "system", "content": [{"type": "text", "text": "A"}]}), _one_text),
    Loss(MESSAGES, "spaces and escapes in the `arguments` of calls", "the same JSON, compact",
         ("调用的 `arguments` 中的空格与转义", "同样的 JSON，紧凑格式"),
         chat(*CALLED, tools=[{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]),
         _compact_arguments),
    Loss(MESSAGES, "`reasoning_content` of earlier answers without a signature in `thinking_blocks`",
         "left out: Anthropic takes its own thoughts alone",
         ("早先答案中在 `thinking_blocks` 里没有签名的 `reasoning_content`", "省略：Anthropic 只接受自己的思考"),
         chat({"role": "user", "content": "Go"}, {"role": "assistant", "content": "a", "reasoning_content": "Hm"}),
         _signed_alone),
    Loss(MESSAGES, "`stop` as a text", "a list of one", ("文本形式的 `stop`", "只有一项的列表"),
         chat(stop="x"), _stops_as_list),
    Loss(MESSAGES, "`max_completion_tokens`, or no bound", "`max_tokens`, which Anthropic needs",
         ("`max_completion_tokens`，或没有上限", "`max_tokens`，Anthropic 必须有它"),
         chat(max_completion_tokens=5000), _one_bound),
    Loss(MESSAGES, "objects in strict schemas that do not say `additionalProperties`", "`additionalProperties: false`",
         ("严格模式中没有写 `additionalProperties` 的对象", "`additionalProperties: false`"),
         chat(response_format={"type": "json_schema", "json_schema": {"name": "answer", "strict": True,
                                                                      "schema": {"type": "object"}}}), _closed),
    Loss(MESSAGES, "calls in the conversation without `tools`", "tools of their names, and `tool_choice: none`",
         ("对话中有调用而没有 `tools`", "以其名称补上工具，并设 `tool_choice: none`"), chat(*CALLED), _named_tools),
    Loss(MESSAGES, "`tool_choice`, `parallel_tool_calls` without tools; `parallel_tool_calls: false` without a choice",
         "left out; with `tool_choice: auto`",
         ("没有工具时的 `tool_choice` 与 `parallel_tool_calls`；没有选择时的 `parallel_tool_calls: false`",
          "省略；补上 `tool_choice: auto`"), chat(parallel_tool_calls=False), _choice_among_tools),
    Loss(MESSAGES, "`object`, `created`, `system_fingerprint`; the beginning of `id`", "left out; `msg_`",
         ("`object`、`created`、`system_fingerprint`；`id` 的开头", "省略；`msg_`"), ANSWER, _new_head, answer=True),
    Loss(MESSAGES, "choices after the first", "left out", ("第一个之后的选项", "省略"),
         {**ANSWER, "choices": ANSWER["choices"] * 2}, _one_choice, answer=True),
    Loss(MESSAGES, "`logprobs` of an answer", "left out", ("答案的 `logprobs`", "省略"),
         {**ANSWER, "choices": [{**ANSWER["choices"][0], "logprobs": {"content": []}}]}, _no_logprobs, answer=True),
    Loss(RESPONSES, "files by `file_url`, pictures by `file_id`", "refused by name",
         ("以 `file_url` 给出的文件、以 `file_id` 给出的图片", "按名称拒绝"),
         responses.request(responses.message("user", {"type": "input_file", "file_url": "https://a.example/b.pdf"},
                                             responses.text("input_text", "Read."))),
         responses.without_part, refused=True),
    Loss(RESPONSES, "whether a text is `content`, or `input`, itself or its only part", "its only part",
         ("文本是 `content`（或 `input`）本身还是它唯一的部分", "成为它唯一的部分"),
         responses.request({"role": "user", "content": "Hi"}), responses.lists_of_parts),
    Loss(RESPONSES, "`id`, `status` and `phase` of items", "left out", ("条目的 `id`、`status` 与 `phase`", "省略"),
         responses.request({**responses.message("user", responses.text("input_text", "A")), "status": "completed"}),
         responses.bare_items),
    Loss(RESPONSES, "parts, `annotations` and `logprobs` of an earlier answer's text", "one text",
         ("早先答案文本的各部分、`annotations` 与 `logprobs`", "合成一段文本"),
         responses.request(responses.message("assistant", responses.text("output_text", "A", annotations=[]),
                                             responses.text("output_text", "B"))), responses.one_answer_text),
    Loss(RESPONSES, "`custom` tools, their grammars and calls",
         "functions with one text, `input`; the grammar is described",
         ("`custom` 工具及其语法与调用", "只有一段文本 `input` 的函数；语法写入描述"),
         responses.request(tools=[{"type": "custom", "name": "patch", "format": {"type": "grammar", "syntax": "lark",
                                                                                 "definition": "start: A"}}]),
         responses.functions),
    Loss(RESPONSES, "`allowed_tools` in `tool_choice`", "the other tools are not sent",
         ("`tool_choice` 中的 `allowed_tools`", "不发送其他工具"),
         responses.request(tools=[{"type": "function", "name": name, "parameters": {}} for name in "fg"],
                           tool_choice={"type": "allowed_tools", "mode": "auto",
                                        "tools": [{"type": "function", "name": "f"}]}), responses.allowed_tools),
    Loss(RESPONSES, "the `namespace` of a tool, and of its calls", "the beginning of its name: `namespace__name`",
         ("工具及其调用的 `namespace`", "成为名称的开头：`namespace__name`"),
         responses.request(tools=[{"type": "namespace", "name": "n", "description": "d", "tools": [
             {"type": "function", "name": "f", "parameters": {"type": "object"}}]}]), responses.namespaces),
    Loss(RESPONSES, "`mcp_call`, `file_search_call` and `mcp_list_tools` of earlier answers",
         "a call of a function and its output; the others are left out",
         ("早先答案中的 `mcp_call`、`file_search_call` 与 `mcp_list_tools`", "函数调用及其输出；其余省略"),
         responses.request({"type": "mcp_call", "id": "mcp_1", "server_label": "docs", "name": "read",
                            "arguments": "{}", "output": "A", "error": None}), responses.server_calls),
    Loss(RESPONSES, "what stands between a call and its output", "it follows the output",
         ("调用与其输出之间的条目", "放到输出之后"),
         responses.request({"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"},
                           responses.message("assistant", responses.text("output_text", "A")),
                           {"type": "function_call_output", "call_id": "c1", "output": "B"}),
         responses.outputs_behind_calls),
    Loss(RESPONSES, "parts of what a tool answers; pictures and files in it",
         "one text; they follow in a message of the user",
         ("工具答复的各部分，以及其中的图片与文件", "合成一段文本；图片与文件在随后的用户消息中"),
         responses.request({"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"},
                           {"type": "function_call_output", "call_id": "c1",
                            "output": [{"type": "input_image", "image_url": "https://a.example/b.png"}]}),
         responses.one_output_text),
    Loss(RESPONSES, "`encrypted_content` of another server", "left out", ("其他服务器的 `encrypted_content`", "省略"),
         responses.request({"type": "reasoning", "summary": [], "encrypted_content": "gAAAAABo"}),
         responses.foreign_thoughts),
    Loss(RESPONSES, "whether reasoning is a `summary`; its parts; reasoning that no answer or call follows",
         "one `reasoning_text`; left out",
         ("推理是否为 `summary`；其各部分；后面没有答案或调用的推理", "一段 `reasoning_text`；省略"),
         responses.request({"type": "reasoning", "summary": [{"type": "summary_text", "text": "Hm"}]},
                           responses.message("assistant", responses.text("output_text", "A"))), responses.own_thoughts),
    Loss(RESPONSES, "`instructions`, and where `system` and `developer` messages at the beginning end",
         "one `system` message; later ones are `system` where they stand",
         ("`instructions`，以及开头各条 `system` 与 `developer` 消息的分界",
          "合成一条 `system` 消息；之后的在原处成为 `system`"),
         responses.request(instructions="Be brief."), responses.first_system),
    Loss(RESPONSES, "`metadata`, `store`, `truncation`, `max_tool_calls`, `prompt_cache_key`, `safety_identifier`, "
         "`reasoning.summary`, `include` but for `logprobs`", "not sent: the gateway does these",
         ("`metadata`、`store`、`truncation`、`max_tool_calls`、`prompt_cache_key`、`safety_identifier`、"
          "`reasoning.summary`，以及除 `logprobs` 外的 `include`", "不发送：由网关处理"),
         responses.request(metadata={"a": "b"}), responses.not_sent),
    Loss(RESPONSES, "values that ask for what happens anyway (`format: text`, `verbosity: medium`, `top_logprobs: 0`)",
         "left out",
         ("要求默认行为的值（`format: text`、`verbosity: medium`、`top_logprobs: 0`）", "省略"),
         responses.request(top_logprobs=0), responses.neutral),
    Loss(RESPONSES, "`top_logprobs` without `logprobs` in `include`", "with it",
         ("`include` 中没有 `logprobs` 的 `top_logprobs`", "补上它"),
         responses.request(top_logprobs=2), responses.with_logprobs),
    Loss(RESPONSES, "`tool_choice`, `parallel_tool_calls` without tools; `parallel_tool_calls: true`", "left out",
         ("没有工具时的 `tool_choice` 与 `parallel_tool_calls`；`parallel_tool_calls: true`", "省略"),
         responses.request(parallel_tool_calls=False), responses.choice_among_tools),
    Loss(RESPONSES, "`id`, `object`, `created`, `system_fingerprint`", "the gateway's own `id`; left out",
         ("`id`、`object`、`created`、`system_fingerprint`", "网关自己的 `id`；省略"),
         ANSWER, responses.new_answer_head, answer=True),
    Loss(RESPONSES, "choices after the first", "left out", ("第一个之后的选项", "省略"),
         {**ANSWER, "choices": ANSWER["choices"] * 2}, _one_choice, answer=True),
    Loss(RESPONSES, "all but `input` in a call of a `custom` tool; arguments that have none",
         "left out; all of them are the input",
         ("`custom` 工具调用中 `input` 之外的内容；没有 `input` 的参数", "省略；整体成为输入"),
         {**ANSWER, "choices": [{"index": 0, "logprobs": None, "finish_reason": "tool_calls", "message": {
             "role": "assistant", "content": None, "tool_calls": [
                 {"id": "c1", "type": "function", "function": {"name": "patch", "arguments": "*** Begin Patch"}}]}}]},
         responses.custom_input("patch"), answer=True),
)  # fmt: skip


def of(surface: str, *, answer: bool) -> list[Loss]:
    """What is lost of questions, or of answers, at ``surface``."""
    return [loss for loss in LOSSES if (loss.surface, loss.answer) == (surface, answer)]


@dataclass(frozen=True)
class Words:
    """What the tables say in one language."""

    heads: tuple[str, ...]
    question: str
    answer: str
    features: dict[str, str]


ENGLISH = Words(("surface", "of", "what", "becomes"), "the question", "the answer", {})
CHINESE = Words(
    ("接口", "属于", "内容", "变为"),
    "问题",
    "答案",
    {
        "text": "文本",
        "streaming": "流式输出",
        "system": "系统消息",
        "images": "图片",
        "tools": "工具",
        "parallel tools": "并行工具调用",
        "results of tools": "工具结果",
        "thinking": "思考过程",
        "stop sequences": "停止序列",
        "usage": "用量",
    },
)
FEATURES = ("text", "streaming", "system", "images", "tools", "parallel tools", "results of tools", "thinking",
            "stop sequences", "usage")  # fmt: skip
KINDS = ("openai", "vllm", "ollama", "zhipu", "cohere", "anthropic", "gemini")
KEPT: dict[tuple[str, str], tuple[str, ...]] = {
    (surface, kind): FEATURES for surface in (MESSAGES, RESPONSES) for kind in KINDS
}
"""By surface and kind of provider, what a test shows to work; each test goes over its part of this."""


def table(losses: Iterable[Loss], words: Words) -> str:
    rows = [[*words.heads], ["---"] * len(words.heads)]
    for loss in losses:
        what, becomes = loss.chinese if words is CHINESE else (loss.what, loss.becomes)
        rows.append([SURFACES[loss.surface], words.answer if loss.answer else words.question, what, becomes])
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def kept_table(words: Words) -> str:
    """One row a surface over a kind, one column a feature."""
    heads = [words.features.get(feature, feature) for feature in FEATURES]
    rows = [["", *heads], ["---"] * (len(FEATURES) + 1)]
    for (surface, kind), kept in KEPT.items():
        rows.append([f"{SURFACES[surface]} → `{kind}`", *("✓" if feature in kept else "" for feature in FEATURES)])
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def pages() -> dict[Path, str]:
    """The pages as they should be."""
    made = {}
    for page, words in zip(PAGES, (ENGLISH, CHINESE), strict=True):
        text = page.read_text("utf-8")
        made[page] = replaced(text, kept_table(words), table(LOSSES, words))
    return made


def replaced(page: str, *tables: str) -> str:
    """``page`` with each of ``tables`` between its pair of marks."""
    parts, rest = [], page
    for made in tables:
        before, begin, rest = rest.partition(BEGIN)
        _, end, rest = rest.partition(END)
        if not begin or not end:
            raise ValueError(f"the page lacks the marks '{BEGIN}' and '{END}'")
        parts.append(f"{before}{begin}\n{made}\n{end}")
    return "".join([*parts, rest])


def main(arguments: list[str]) -> None:
    stale = {page: text for page, text in pages().items() if page.read_text("utf-8") != text}
    if arguments == ["--write"]:
        for page, text in stale.items():
            page.write_text(text, "utf-8")
    elif stale:
        names = ", ".join(str(page.relative_to(ROOT)) for page in stale)
        raise SystemExit(f"stale: {names}; run: python tests/surface_losses.py --write")


if __name__ == "__main__":
    main(sys.argv[1:])
