"""An answer that takes several rounds: the model calls tools of the gateway, which run here, and goes on with what they
have answered."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, Awaitable, Collection, Sequence
from types import TracebackType
from typing import Any

import orjson

from sage.errors import InvalidRequest, SageError
from sage.middleware.auth.principal import Principal
from sage.middleware.dispatch.deadlines import Deadlines
from sage.middleware.gateway.context.neutralise import neutralise_control_tokens
from sage.middleware.gateway.gateway import Gateway, GatewayCall
from sage.middleware.gateway.tools.results import add_result
from sage.middleware.gateway.tools.rounds import AnswerHead, Round, add_usage, is_call_of
from sage.middleware.gateway.tools.server_tool import ServerTool, ToolOutput, ToolRun
from sage.middleware.providers.base import ModelCall, Sink, takes_nothing
from sage.middleware.providers.wire.event_bytes import DONE

DEFAULT_TURNS = 8
MOST_RUNS = 16
"""Calls of the gateway's tools that one turn of the model may make."""
_SILENCE = 15.0
"""Seconds after which a stream says something while a tool runs, since proxies end silent ones."""
_KEEP_ALIVE = b":\n\n"  # a comment, which clients ignore
_TOO_MANY = ToolOutput(f"not run: one turn may call at most {MOST_RUNS} tools of the gateway", is_error=True)
_NO_MORE_TURNS = "the model has used all its turns with tools"


class WithTools:
    """A gateway whose calls may use ``tools``; what :func:`sage.middleware.routers.http.respond.respond` asks."""

    def __init__(
        self,
        gateway: Gateway,
        tools: Collection[ServerTool],
        *,
        turns: int = DEFAULT_TURNS,
        separator: str = "\n\n",
        beside: bool = False,
        approved: Sequence[ToolRun] = (),
    ) -> None:
        """``turns`` are how often the model may be asked; in the last one it may call no tool. ``separator`` is put
        between the texts of two of them. ``beside`` says whether the gateway's tools run in a turn in which the model
        calls a tool of the caller's too; the answer ends with it either way. ``approved`` run first: a message of the
        call is the one in which the model has called them, and holds no results of theirs."""
        self._gateway = gateway
        self.tools = {tool.name: tool for tool in tools}
        self.turns = turns
        self.separator = separator
        self.beside = beside
        self.approved = approved

    @property
    def deadlines(self) -> Deadlines:
        """What watches over calls are entered in."""
        return self._gateway.deadlines

    def call(self, principal: Principal, call: ModelCall) -> GatewayCall:
        """As :meth:`Gateway.call`, for as many rounds as it takes."""
        return ToolLoop(self._gateway, principal, call, self)


class ToolLoop(GatewayCall):
    """One answer made of several calls of the model, each admitted, limited and counted by itself.

    Its stream is OpenAI's, as that of one call. Calls of the gateway's tools do not appear among ``tool_calls``; chunks
    with a field ``tool_runs`` tell of them. An error in a later round ends the answer as an error of the first would.
    """

    __slots__ = (
        "_body",
        "_calls",
        "_events",
        "_fields",
        "_finish",
        "_head",
        "_options",
        "_round",
        "_usage",
        "_warnings",
        "steps",
    )

    def __init__(self, gateway: Gateway, principal: Principal, call: ModelCall, options: WithTools) -> None:
        super().__init__(gateway, principal, call)
        self._options = options
        self._head = AnswerHead(options.separator)
        self._fields = (call.stream, call.wants_usage, call.hints)
        self._calls: list[GatewayCall] = []
        """The calls of the model so far."""
        self._round: GatewayCall | None = None
        """The one that is under way; ``None`` means that none is open."""
        self._events: AsyncGenerator[bytes, None] | None = None
        self._usage: dict[str, Any] | None = None
        self._finish: str | None = None
        self._warnings: dict[str, list[str]] = {}
        self.steps: list[dict[str, Any] | ToolRun] = []
        """What has happened, in order: messages of the model, with all their calls, and runs of tools."""

    async def __aenter__(self) -> ToolLoop:
        self._gateway.run_tools_here()
        self._body = self._with_tools(self._call.body)
        self._events = self._turns()
        try:
            if self._call.stream:
                self.body = await self.more()
            else:
                async for _ in self._events:
                    pass
                self.body = self._whole_answer()
        except BaseException as exc:
            await self._close(exc)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._close(exc)

    async def _close(self, exc: BaseException | None) -> None:
        try:
            if self._events is not None:
                await self._events.aclose()
        finally:
            await self._end_round(exc)

    def _with_tools(self, body: dict[str, Any]) -> dict[str, Any]:
        """``body`` with the gateway's tools beside the caller's. Raises :class:`InvalidRequest` for a name of both."""
        own, theirs = self._options.tools, body.get("tools")
        if body.get("functions") or body.get("function_call"):
            raise InvalidRequest("write 'functions' as 'tools' where the gateway has tools too", param="functions")
        if body.get("n") not in (None, 1):
            raise InvalidRequest("'n' must be 1 in a request with tools of the gateway", param="n")
        if theirs is not None and not isinstance(theirs, list):
            raise InvalidRequest("'tools' must be a list", param="tools")
        for index, tool in enumerate(theirs or ()):
            function = tool.get("function") if isinstance(tool, dict) else None
            name = function.get("name") if isinstance(function, dict) else None
            if name in own:
                raise InvalidRequest(
                    f"'{name}' is the name of a tool of the gateway; give yours another", param=f"tools[{index}]"
                )
        return {**body, "tools": [*(theirs or ()), *(dict(tool.definition) for tool in own.values())]}

    async def _turns(self) -> AsyncGenerator[bytes, None]:
        """The events of the whole answer; those of an answer without a stream are for nobody."""
        options, approved = self._options, list(self._options.approved)
        messages = list(self._body["messages"]) if isinstance(self._body.get("messages"), list) else []
        async for _ in self._run(approved, messages):  # the head of the answer is the model's, which is asked next
            pass
        for turn in range(options.turns):
            current = Round(options.tools, self._head, is_first=turn == 0)
            async for events in self._ask(current, self._request(turn, messages)):
                yield self._runs_event(approved) + events
                approved = []
            self._usage = add_usage(self._usage, current.usage)
            self.steps.append(current.message())
            messages.append(current.message())
            runs, goes_on = self._runs_of(current), not current.has_foreign_calls
            if not runs or turn + 1 == options.turns or not (goes_on or options.beside):
                yield self._end(current, runs if goes_on else [])
                return
            await self._end_round(None)
            waiting = [run for run in runs if run.tool.needs_approval]
            async for events in self._run([run for run in runs if run not in waiting], messages):
                yield events
            if waiting or not goes_on:
                self.steps += waiting
                yield self._runs_event(waiting) + self._end(current, [])
                return

    def _request(self, turn: int, messages: list[Any]) -> dict[str, Any]:
        body = {**self._body, "messages": list(messages)} if messages else dict(self._body)
        if turn + 1 == self._options.turns:
            body["tool_choice"] = "none"
        elif (turn > 0 or self._options.approved) and body.get("tool_choice") not in (None, "none"):
            body["tool_choice"] = "auto"  # it has been followed, and would be without end
        return body

    async def _ask(self, current: Round, body: dict[str, Any]) -> AsyncGenerator[bytes, None]:
        """One call of the model, which is left open: its end is the answer's, if it is the last one."""
        call = self._call
        stream, _, hints = self._fields
        call.body, call.stream, call.wants_usage, call.hints, call.native = body, stream, stream, hints, None
        call.attempts, call.asked, call.omitted, call.token_bound, call.answer_bound = 0, None, None, None, 0
        call.deadline, call.is_plain, call.text_size = math.inf, False, None
        opened = self._gateway.call(self._principal, call)
        self._round = answer = await opened.__aenter__()
        self._calls.append(answer)
        self._answer, self.deployment = answer._answer, answer.deployment
        if not stream:
            current.read_whole(orjson.loads(answer.body))
            return
        events = answer.body
        while events:
            if shown := current.translate(events):
                yield shown
            events = await answer.more()
        await answer.drain()
        if late := current.end():
            yield late

    async def _end_round(self, exc: BaseException | None) -> None:
        opened, self._round = self._round, None
        if opened is not None:
            await opened.__aexit__(type(exc) if exc is not None else None, exc, None)
            self._call.deadline = math.inf

    def _runs_of(self, current: Round) -> list[ToolRun]:
        tools = self._options.tools
        return [ToolRun(call.id, tools[call.name], call.arguments or "{}") for call in current.own_calls]

    async def _run(self, runs: list[ToolRun], messages: list[Any]) -> AsyncGenerator[bytes, None]:
        """Runs tools side by side, and adds what they answer to ``messages``."""
        for late in runs[MOST_RUNS:]:
            late.output = _TOO_MANY
        for run in runs[:MOST_RUNS]:
            run.started = True
        self.steps += runs
        tasks = [asyncio.create_task(_finished(run, self._principal)) for run in runs[:MOST_RUNS]]
        try:
            if runs:
                yield self._runs_event(runs)
            pending = set(tasks)
            while pending:
                ended, pending = await asyncio.wait(pending, timeout=_SILENCE, return_when=asyncio.FIRST_COMPLETED)
                yield b"".join([self._runs_event([task.result()]) for task in ended]) or _KEEP_ALIVE
        finally:
            for running in tasks:
                running.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        for run in runs:
            add_result(messages, run.id, neutralise_control_tokens(run.output.text) if run.output is not None else "")

    def _runs_event(self, runs: list[ToolRun]) -> bytes:
        return self._head.event({}, tool_runs=[run.shown() for run in runs]) if runs else b""

    def _end(self, current: Round, not_run: list[ToolRun]) -> bytes:
        """The end of the answer; ``not_run`` are calls for which no turn is left."""
        self._finish = "length" if not_run else current.finish
        if self._finish == "tool_calls" and not current.has_foreign_calls:
            self._finish = "stop"  # a call that waits for the caller's approval is no call of the caller's tools
        self._warnings = {"warnings": [_NO_MORE_TURNS]} if not_run else {}
        event = self._head.event({}, self._finish, **self._warnings)
        if self._fields[1] and self._usage is not None:
            event += self._head.usage_event(self._usage)
        return event + DONE

    def _whole_answer(self) -> bytes:
        """The last answer of the model with all its texts, and without calls of the gateway's tools."""
        answer = orjson.loads(self._calls[-1].body)
        messages = [step for step in self.steps if isinstance(step, dict)]
        message = {name: value for name, value in messages[-1].items() if name != "tool_calls"}
        for name in ("content", "reasoning_content"):
            texts = [text for each in messages if (text := each.get(name)) and isinstance(text, str)]
            if len(texts) > 1 or (texts and not message.get(name)):
                message[name] = self._options.separator.join(texts)
        own = self._options.tools
        if calls := [call for call in messages[-1].get("tool_calls", ()) if not is_call_of(call, own)]:
            message["tool_calls"] = calls
        choice = {**(answer.get("choices") or [{"index": 0}])[0], "message": message, "finish_reason": self._finish}
        runs = [step.shown() for step in self.steps if isinstance(step, ToolRun)]
        answer |= {"choices": [choice], **({"tool_runs": runs} if runs else {}), **self._warnings}
        return orjson.dumps(answer if self._usage is None else {**answer, "usage": self._usage})

    def run(self, identity: str) -> ToolRun | None:
        """The run of a tool with that id."""
        return next((step for step in self.steps if isinstance(step, ToolRun) and step.id == identity), None)

    @property
    def finished(self) -> bool:
        return self._finish is not None and self._round is None

    def answers_in(self, kind: str) -> bool:
        return False

    def more(self, write: Sink = takes_nothing) -> Awaitable[bytes]:
        return self._next()

    async def _next(self) -> bytes:
        assert self._events is not None
        async for events in self._events:
            if events:
                return events
        return b""

    async def drain(self) -> None:
        """Nothing is left to be read: each round was drained at its end."""

    def broke(self, error: SageError) -> None:
        if self._round is not None:
            self._round.broke(error)

    def headers(self) -> list[tuple[bytes, bytes]]:
        return self._calls[-1].headers()

    async def cost(self) -> int | None:
        costs = [await call.cost() for call in self._calls]
        return None if None in costs else sum(cost for cost in costs if cost is not None)


async def _finished(run: ToolRun, principal: Principal) -> ToolRun:
    await run.run(principal)
    return run
