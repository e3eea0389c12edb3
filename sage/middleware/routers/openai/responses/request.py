"""A request of Responses: its fields checked, and the chat that asks the same.

Source: OpenAI's API reference (responses, *Create a model response*).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sage.errors import InvalidRequest
from sage.middleware.routers.openai.responses.approvals import Approvals, ApprovedCall
from sage.middleware.routers.openai.responses.faults import name_in, only_native, wrong
from sage.middleware.routers.openai.responses.items import ChatMessages, input_items
from sage.middleware.routers.openai.responses.tools import NO_TOOLS, chat_choice, read_tools

LOGPROBS = "message.output_text.logprobs"
ENCRYPTED = "reasoning.encrypted_content"
SEARCH_RESULTS = "file_search_call.results"
_INCLUDABLE = frozenset(
    {LOGPROBS, ENCRYPTED, SEARCH_RESULTS, "web_search_call.results", "web_search_call.action.sources"}
    | {"message.input_image.image_url", "computer_call_output.output.image_url", "code_interpreter_call.outputs"}
)
_MOST_NOTES, _LONGEST_NOTE_NAME, _LONGEST_NOTE = 16, 64, 512
_MOST_TOP_LOGPROBS = 20
_VERBOSITIES = ("low", "medium", "high")


class ResponsesRequest:
    """One request. Raises :class:`InvalidRequest`, naming the field, for what is wrong in it."""

    store = True
    stream = False
    background = False
    include: Sequence[str] = ()
    previous_id: str | None = None
    summarised = False
    """Whether reasoning is shown as a summary, and not as a content of its own."""
    truncates = False
    """Whether the oldest items may go."""
    has_thoughts = False
    """Whether the chat has signed thoughts, which not every vendor reads."""
    approved: Sequence[ApprovedCall] = ()
    """Calls of tools of the gateway that are to run first."""
    refuses = False
    """Whether the conversation has calls that the caller has refused."""
    approvals: Approvals | None = None
    """Makes the requests for the caller's approval; ``None`` means that no tool needs it."""
    tools = NO_TOOLS
    only_native: InvalidRequest | None = None
    """Why no model that speaks chat completions can answer; ``None`` if one can."""

    def __init__(self, body: dict[str, Any]) -> None:
        self.body = body
        self.chat: dict[str, Any] = {}
        """The fields of the chat, at first without its messages."""
        chat = self.chat
        for name, value in body.items():
            read = _READERS.get(name)
            if read is None:
                chat[name] = value  # a server's own field, as on the route of chats
            elif value is not None:
                read(self, name, value)
        self.input = input_items(body.get("input"))
        if body.get("tools"):
            self._read_tools(body)
        if self.background and not self.store:
            wrong("store", "true, or left out, for a response in the background")

    def translate(self, earlier: Sequence[Any] = ()) -> dict[str, Any]:
        """The chat that asks the same after the ``earlier`` items."""
        builder = ChatMessages(self.body.get("instructions"), self.tools, self._refuse)
        if earlier:
            for item in earlier:
                builder.add(item, "previous_response_id")
            builder.begin_input()
        for index, item in enumerate(self.input):
            builder.add(item, f"input[{index}]")
        messages = builder.messages()
        if not messages:
            if self.only_native is None:
                wrong("input", "text, or a list with at least one item")
            messages = [{"role": "user", "content": ""}]  # nobody is sent that
        self.chat["messages"] = messages
        self.has_thoughts, self.refuses = builder.has_thoughts, builder.refuses
        self.approved = builder.approved
        return self.chat

    @property
    def references(self) -> list[str]:
        """Ids of items that the request only refers to: they are kept here, or nowhere that it says."""
        found = [item for item in self.input if type(item) is dict and "role" not in item]
        return (
            [item["id"] for item in found if _is_reference(item) and isinstance(item.get("id"), str)] if found else []
        )

    def resolve(self, kept: Mapping[str, dict[str, Any]]) -> None:
        """Puts the ``kept`` items, by their ids, where the request refers to them. Raises :class:`InvalidRequest` for
        an item that is not there."""
        items = []
        for index, item in enumerate(self.input):
            if isinstance(item, dict) and _is_reference(item):
                found = kept.get(item["id"]) if isinstance(item.get("id"), str) else None
                if found is None and item.get("type") != "reasoning":
                    raise InvalidRequest(
                        f"input[{index}]: there is no item '{str(item.get('id'))[:128]}' here: its response was made "
                        "with 'store: false', was deleted or has expired; send the item itself",
                        param=f"input[{index}].id",
                        code="item_not_found",
                    )
                item = found or item
            items.append(item)
        self.input = items

    def _refuse(self, error: InvalidRequest) -> None:
        self.only_native = self.only_native or error

    def _read_tools(self, body: dict[str, Any]) -> None:
        self.tools = read_tools(body["tools"], self._refuse)
        functions, choice = self.tools.functions, body.get("tool_choice")
        if choice is not None:
            choice, functions = chat_choice(choice, self.tools, self._refuse)
        if functions:
            self.chat["tools"] = functions
            if choice is not None:
                self.chat["tool_choice"] = choice
            if body.get("parallel_tool_calls") is False:
                self.chat["parallel_tool_calls"] = False

    def _text(self, name: str, value: Any) -> None:
        if not isinstance(value, str):
            wrong(name, "text")

    def _sent_text(self, name: str, value: Any) -> None:
        self._text(name, value)
        self.chat[name] = value

    def _number(self, name: str, value: Any) -> None:
        if not isinstance(value, int | float) or isinstance(value, bool):
            wrong(name, "a number")
        self.chat[name] = value

    def _flag(self, name: str, value: Any) -> None:
        if not isinstance(value, bool):
            wrong(name, "true or false")

    def _own_flag(self, name: str, value: Any) -> None:
        self._flag(name, value)
        setattr(self, name, value)

    def _count(self, name: str, value: Any) -> None:
        if type(value) is not int or value < 1:
            wrong(name, "a whole number from 1")

    def _most_tokens(self, name: str, value: Any) -> None:
        self._count(name, value)
        self.chat["max_tokens"] = value

    def _top_logprobs(self, name: str, value: Any) -> None:
        if type(value) is not int or not 0 <= value <= _MOST_TOP_LOGPROBS:
            wrong(name, f"a whole number from 0 to {_MOST_TOP_LOGPROBS}")
        if value:
            self.chat["logprobs"] = True
            self.chat[name] = value

    def _instructions(self, name: str, value: Any) -> None:
        self._text(name, value)

    def _previous(self, name: str, value: Any) -> None:
        if not isinstance(value, str) or not value:
            wrong(name, "the id of a response")
        self.previous_id = value

    def _include(self, name: str, value: Any) -> None:
        if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
            wrong(name, "a list of names")
        for index, each in enumerate(value):
            if each not in _INCLUDABLE:
                wrong(f"{name}[{index}]", "one of " + ", ".join(f"'{known}'" for known in sorted(_INCLUDABLE)))
        self.include = value
        if LOGPROBS in value:
            self.chat["logprobs"] = True

    def _reasoning(self, name: str, value: Any) -> None:
        if not isinstance(value, dict):
            wrong(name, "an object")
        for field in ("effort", "summary", "generate_summary"):
            if value.get(field) is not None and not isinstance(value[field], str):
                wrong(f"{name}.{field}", "text")
        if value.get("effort") is not None:
            self.chat["reasoning_effort"] = value["effort"]
        self.summarised = (value.get("summary") or value.get("generate_summary")) not in (None, "none")

    def _text_options(self, name: str, value: Any) -> None:
        if not isinstance(value, dict):
            wrong(name, "an object")
        verbosity, form = value.get("verbosity"), value.get("format")
        if verbosity is not None:
            if verbosity not in _VERBOSITIES:
                wrong(f"{name}.verbosity", "'low', 'medium' or 'high'")
            if verbosity != "medium":  # which is what leaving it out means
                self.chat["verbosity"] = verbosity
        if form is not None:
            self._format(f"{name}.format", form)

    def _format(self, where: str, form: Any) -> None:
        if not isinstance(form, dict) or form.get("type") not in ("text", "json_object", "json_schema"):
            wrong(where, "an object with the type 'text', 'json_object' or 'json_schema'")
        if form["type"] == "json_object":
            self.chat["response_format"] = {"type": "json_object"}
        elif form["type"] == "json_schema":
            name_in(form, "name", where)
            if not isinstance(form.get("schema"), dict):
                wrong(f"{where}.schema", "a JSON schema")
            known = ("name", "schema", "strict", "description")
            schema = {key: form[key] for key in known if form.get(key) is not None}
            self.chat["response_format"] = {"type": "json_schema", "json_schema": schema}

    def _truncation(self, name: str, value: Any) -> None:
        if value not in ("auto", "disabled"):
            wrong(name, "'auto' or 'disabled'")
        self.truncates = value == "auto"

    def _metadata(self, name: str, value: Any) -> None:
        if not isinstance(value, dict) or len(value) > _MOST_NOTES:
            wrong(name, f"an object with at most {_MOST_NOTES} texts")
        for key, note in value.items():
            if not isinstance(note, str) or len(note) > _LONGEST_NOTE or len(key) > _LONGEST_NOTE_NAME:
                wrong(
                    f"{name}.{key[:_LONGEST_NOTE_NAME]}",
                    f"a text of at most {_LONGEST_NOTE} characters, its name of at most {_LONGEST_NOTE_NAME}",
                )

    def _object(self, name: str, value: Any) -> None:
        if not isinstance(value, dict):
            wrong(name, "an object")

    def _nothing(self, name: str, value: Any) -> None:
        """A field that is read elsewhere, or asks nothing of a model."""

    def _elsewhere(self, name: str, value: Any) -> None:
        self._refuse(only_native(f"'{name}'", name, "leave it out"))

    def _no_conversation(self, name: str, value: Any) -> None:
        raise InvalidRequest(
            "conversations are not kept here; continue with 'previous_response_id', or send the earlier items",
            param=name,
            code="unsupported_field",
        )

    def _no_prompt(self, name: str, value: Any) -> None:
        raise InvalidRequest(
            "prompt templates are kept at OpenAI, in an account that all users of this gateway share; send the prompt "
            "itself as 'instructions' and 'input'",
            param=name,
            code="unsupported_field",
        )


def _is_reference(item: dict[str, Any]) -> bool:
    """Whether an item stands for one that was kept: by its id alone, or reasoning without what is read again."""
    kind = item.get("type")
    if kind == "reasoning":
        return not item.get("encrypted_content") and not item.get("content") and not item.get("summary")
    return kind == "item_reference" or (kind is None and "role" not in item and "id" in item)


_READERS: Mapping[str, Callable[[ResponsesRequest, str, Any], None]] = {
    "model": ResponsesRequest._nothing,
    "id": ResponsesRequest._nothing,
    "input": ResponsesRequest._nothing,
    "store": ResponsesRequest._own_flag,
    "stream": ResponsesRequest._own_flag,
    "background": ResponsesRequest._own_flag,
    "instructions": ResponsesRequest._text,
    "previous_response_id": ResponsesRequest._previous,
    "tools": ResponsesRequest._nothing,
    "tool_choice": ResponsesRequest._nothing,
    "parallel_tool_calls": ResponsesRequest._flag,
    "max_output_tokens": ResponsesRequest._most_tokens,
    "max_tool_calls": ResponsesRequest._count,
    "temperature": ResponsesRequest._number,
    "top_p": ResponsesRequest._number,
    "presence_penalty": ResponsesRequest._number,
    "frequency_penalty": ResponsesRequest._number,
    "top_logprobs": ResponsesRequest._top_logprobs,
    "include": ResponsesRequest._include,
    "reasoning": ResponsesRequest._reasoning,
    "text": ResponsesRequest._text_options,
    "truncation": ResponsesRequest._truncation,
    "metadata": ResponsesRequest._metadata,
    "user": ResponsesRequest._sent_text,
    "service_tier": ResponsesRequest._sent_text,
    "safety_identifier": ResponsesRequest._text,
    "prompt_cache_key": ResponsesRequest._text,
    "prompt_cache_retention": ResponsesRequest._text,
    "prompt_cache_options": ResponsesRequest._object,
    "stream_options": ResponsesRequest._object,
    "client_metadata": ResponsesRequest._nothing,
    "context_management": ResponsesRequest._elsewhere,
    "moderation": ResponsesRequest._elsewhere,
    "image": ResponsesRequest._elsewhere,
    "access_programs": ResponsesRequest._elsewhere,
    "background_options": ResponsesRequest._elsewhere,
    "conversation": ResponsesRequest._no_conversation,
    "prompt": ResponsesRequest._no_prompt,
}
"""What is done with each field that is not null; others go on to the model's server as they are."""
