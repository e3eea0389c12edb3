"""The gateway as a Python object."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from concurrent.futures import CancelledError
from dataclasses import dataclass
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

from sage.errors import ConfigError, InvalidRequest, Unavailable
from sage.middleware.app.main import create_app, make_gateway
from sage.middleware.app.server import GatewayServer, bind, make_server
from sage.middleware.auth.principal import LOCAL
from sage.middleware.gateway.context.chat_memory import Memory
from sage.middleware.gateway.context.context import Context, add_context
from sage.middleware.gateway.context.sources import Source
from sage.middleware.gateway.gateway import Gateway
from sage.middleware.gateway.watch import Watch
from sage.middleware.providers.base import MAX_NAME, ModelCall
from sage.middleware.providers.ollama.provider import OllamaProvider
from sage.middleware.routers.generate import TextStream, complete_answer, parse_generate
from sage.middleware.settings.providers import OllamaSettings
from sage.middleware.settings.reading import find_config, load_settings
from sage.middleware.settings.settings import LOOPBACK, DeploymentSettings, Model, Settings

if TYPE_CHECKING:
    from sage.middleware.retrieval.embedding.protocols import Models
    from sage.service.vdb.sharded.collections import AnyCollection

T = TypeVar("T")
_OLLAMA = "http://localhost:11434"


@dataclass(frozen=True)
class Generation:
    """A complete answer.

    ``usage`` has ``prompt_tokens``, ``completion_tokens`` and ``total_tokens``; ``None`` means that the provider did
    not tell it. With ``search``, ``sources`` lists the documents that the model got (``{number, id, collection, text,
    metadata, score}``); with ``memory``, ``memories`` lists the memories that it got. ``warnings`` say why a turn was
    not stored. ``refusal`` is the text again where a model refuses, and ``tool_calls`` are those that it made, in
    OpenAI's shape.
    """

    id: str
    model: str
    text: str
    finish_reason: str | None
    usage: dict[str, int] | None
    provider: str
    sources: list[Source] | None = None
    memories: list[Memory] | None = None
    warnings: list[str] | None = None
    refusal: str | None = None
    tool_calls: list[dict[str, Any]] | None = None


class LLMService:
    """The gateway in this process: call it from Python, and :meth:`start` it to serve HTTP too.

    Without ``settings`` it reads the configuration as ``sage serve`` does. All methods may be called from any thread
    that runs no event loop. The work runs on an event loop in a separate thread, which starts with the first call and
    ends with :meth:`stop`.
    """

    def __init__(self, settings: Settings | None = None) -> None:
        self._settings = settings or load_settings(find_config(None, os.environ), os.environ)
        self._lock = threading.RLock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._gateway: Gateway | None = None
        self._server: GatewayServer | None = None
        self._serving: Any = None
        self._previous_handler: Any = None
        self._registered: dict[str, tuple[Model, str]] = {}
        self._tasks: set[asyncio.Task[Any]] = set()  # used on the loop only
        self.url: str | None = None
        """The address that it listens on; ``None`` while it does not serve."""

    def register_model(
        self, name: str, provider: str, model: str | None = None, *, fallbacks: Sequence[str] = ()
    ) -> None:
        """Adds the public name ``name`` for the model that ``provider`` calls ``model`` (default: the same name).

        A provider that is not configured raises no error here: a call of the model then says what is missing.
        ``ollama`` needs no configuration: its default address is used. Raises :class:`InvalidRequest` for what is no
        name.
        """
        model = name if model is None else model
        if isinstance(fallbacks, str):
            raise InvalidRequest("'fallbacks' must be a list of names, not one name", param="fallbacks")
        names = [("name", name), ("provider", provider), ("model", model), *(("fallbacks", each) for each in fallbacks)]
        for param, value in names:
            if not isinstance(value, str) or not 1 <= len(value) <= MAX_NAME:
                raise InvalidRequest(f"'{param}' must be a name of 1 to {MAX_NAME} characters", param=param)
        deployment = DeploymentSettings(provider=provider, model=model)
        settings = Model(deployments=(deployment,), fallbacks=tuple(fallbacks))
        self._run(lambda gateway: _register_on_loop(gateway, name, settings, provider))
        self._registered[name] = settings, provider

    def start(self, host: str = "127.0.0.1", port: int = 8000, *, auth: bool = False) -> None:
        """Serves HTTP at ``host:port`` until :meth:`stop` or Ctrl-C; returns once ready.

        Without ``auth`` it serves on loopback only, open to everyone on this machine. Raises :class:`ConfigError` when
        the port is taken or the address is not allowed.
        """
        with self._lock:
            if self._server is not None:
                raise ConfigError(f"this service already runs at {self.url}; stop() it first")
            settings = _server_settings(self._settings, host, port, auth)
            gateway = self._open_gateway()
            sock = bind(host, port)
            ready = threading.Event()
            self._server = make_server(create_app(settings, gateway=gateway), settings, ready.set)
            assert self._loop is not None
            self._serving = asyncio.run_coroutine_threadsafe(self._server.serve(sockets=[sock]), self._loop)
            self._serving.add_done_callback(lambda _: ready.set())
            ready.wait()
            if self._serving.done():
                self._server = None
                sock.close()
                self._serving.result()
                raise ConfigError(f"the service did not start at {host}:{port}")
            address = f"[{host}]" if ":" in host else host
            self.url = f"http://{address}:{sock.getsockname()[1]}"
            self._install_interrupt_handler()

    def stop(self) -> None:
        """Stops serving once the running requests have ended, and stops every engine. May be called again."""
        with self._lock:
            self._restore_interrupt_handler()
            if self._server is not None:
                self._server.should_exit = True
                self._serving.result()
                self._server, self.url = None, None
            if self._loop is not None and self._thread is not None:
                asyncio.run_coroutine_threadsafe(self._close_all(self._gateway), self._loop).result()
                self._loop.call_soon_threadsafe(self._loop.stop)
                self._thread.join()
                self._loop.close()
                self._loop, self._thread, self._gateway = None, None, None

    def generate(
        self,
        model: str,
        prompt: str | None = None,
        *,
        messages: Sequence[dict[str, Any]] | None = None,
        **parameters: Any,
    ) -> Generation:
        """The complete answer of ``model`` to a prompt or to messages; ``parameters`` as in ``POST /generate``.

        Raises :class:`sage.errors.SageError` with the message and code that HTTP would give.
        """
        body = _body(model, prompt, messages, parameters)
        return self._run(lambda gateway: _generate(gateway, body))

    def stream(
        self,
        model: str,
        prompt: str | None = None,
        *,
        messages: Sequence[dict[str, Any]] | None = None,
        **parameters: Any,
    ) -> Iterator[str]:
        """The text of the answer in parts, as it arrives. Leaving the loop cancels the call upstream."""
        body = _body(model, prompt, messages, parameters, stream=True)
        with self._lock:
            texts = _stream(self._open_gateway(), body)
            loop = self._loop
        try:
            while True:
                try:
                    yield self._run(lambda _: _next(texts), loop)
                except StopAsyncIteration:
                    return
        finally:
            if self._loop is loop:  # else stop() has ended the call already
                self._run(lambda _: _close(texts), loop)

    def collection(self, name: str = "default") -> AnyCollection:
        """The collection of that name of the user ``local``, for ``search`` to use; it is created if it does not exist.

        Its methods block, and use models of this service if they need any. :meth:`stop` closes it.
        """
        return self._open_gateway().collections.open(LOCAL, name, create=True)

    @property
    def search_models(self) -> Models:
        """The models of this service as embedders and rerankers.

        For ``VectorStore(path, embedder="provider/model", models=service.search_models)``.
        """
        # imported here: only collections need it
        from sage.middleware.gateway.collections.embedders import RegistryModels

        return RegistryModels(self._open_gateway().running_gateway)

    def load(self, model: str) -> dict[str, Any]:
        """Loads a local model; returns its state as ``GET /models/{name}`` does."""
        return self._run(lambda gateway: gateway.registry.load(model)).describe()

    def unload(self, model: str) -> dict[str, Any]:
        """Ends a local model's process; returns its state."""
        return self._run(lambda gateway: gateway.registry.unload(model)).describe()

    def models(self) -> list[dict[str, Any]]:
        """The state of every registered model."""
        return [model.describe() for model in self._open_gateway().registry.models()]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _open_gateway(self) -> Gateway:
        with self._lock:
            if self._gateway is None:
                self._gateway = make_gateway(self._settings)
                for name, (model, provider) in self._registered.items():
                    _register(self._gateway, name, model, provider)
            if self._loop is None:
                self._loop = self._gateway.loop = _new_loop()
                self._thread = threading.Thread(target=self._loop.run_forever, name="sage-gateway")
                self._thread.start()
            return self._gateway

    def _run(
        self, work: Callable[[Gateway], Coroutine[Any, Any, T]], loop: asyncio.AbstractEventLoop | None = None
    ) -> T:
        """The result of ``work`` on the loop. With ``loop`` it raises if the service now has another loop, or none.

        Code that runs on the loop never takes the lock, because the thread that has the lock may wait for the loop.
        """
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            pass
        else:
            raise InvalidRequest("LLMService blocks: call it from a thread that runs no event loop (asyncio.to_thread)")
        with self._lock:  # held while the work is submitted, so that stop() sees it
            if loop is not None and self._loop is not loop:
                raise _stopped()
            gateway = self._open_gateway()
            assert self._loop is not None
            future = asyncio.run_coroutine_threadsafe(self._tracked(work(gateway)), self._loop)
        try:
            return future.result()
        except CancelledError:
            raise _stopped() from None
        except BaseException:
            future.cancel()
            raise

    async def _tracked(self, work: Coroutine[Any, Any, T]) -> T:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            return await work
        finally:
            self._tasks.discard(task)

    async def _close_all(self, gateway: Gateway | None) -> None:
        """Cancels the running calls, closes the gateway, and ends streams that were not read to their end."""
        running = list(self._tasks)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        if gateway is not None:
            await gateway.close()
        await asyncio.get_running_loop().shutdown_asyncgens()

    def _install_interrupt_handler(self) -> None:
        """Lets Ctrl-C stop the service first."""
        if threading.current_thread() is threading.main_thread():
            self._previous_handler = signal.signal(signal.SIGINT, self._on_interrupt)

    def _restore_interrupt_handler(self) -> None:
        if self._previous_handler is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, self._previous_handler)
            self._previous_handler = None

    def _on_interrupt(self, number: int, frame: FrameType | None) -> None:
        self.stop()
        if threading.main_thread().is_alive():  # else the program has ended and waits only for this service
            raise KeyboardInterrupt


def default_search_models() -> Models:
    """The models of the configuration, for a ``VectorStore`` with a model's name (entry point ``sage.search_models``).

    Their service stops when the program ends.
    """
    service = LLMService()

    def stop_at_exit() -> None:
        threading.main_thread().join()
        service.stop()

    threading.Thread(target=stop_at_exit, name="stop search models", daemon=True).start()
    return service.search_models


def _stopped() -> Unavailable:
    return Unavailable("the service was stopped while it answered", code="shutting_down")


async def _generate(gateway: Gateway, body: dict[str, Any]) -> Generation:
    call, context = await _call_with_context(gateway, body)
    with Watch(call):
        async with gateway.call(LOCAL, call) as answer:
            complete = complete_answer(answer, context)
            await context.store_turn(complete["text"])
            return Generation(**complete, **context.warnings())


async def _call_with_context(gateway: Gateway, body: dict[str, Any]) -> tuple[ModelCall, Context]:
    """The call, with the context that ``search`` and ``memory`` add to it."""
    request = parse_generate(body)
    call = request.call()
    return call, await add_context(gateway, LOCAL, call, request.search, request.memory)


async def _stream(gateway: Gateway, body: dict[str, Any]) -> AsyncIterator[str]:
    call, context = await _call_with_context(gateway, body)
    async with gateway.call(LOCAL, call) as answer:
        stream, events = TextStream(context), answer.body
        while events:
            for text in stream.texts(events):
                yield text
            if answer.finished:
                await stream.store_turn()
                await answer.drain()
                return
            events = await answer.more()
        await stream.store_turn()


async def _register_on_loop(gateway: Gateway, name: str, model: Model, provider: str) -> None:
    _register(gateway, name, model, provider)


def _register(gateway: Gateway, name: str, model: Model, provider: str) -> None:
    registry = gateway.registry
    if provider == "ollama" and provider not in registry.providers:
        registry.providers[provider] = OllamaProvider(provider, OllamaSettings(base_url=_OLLAMA))
    elif provider not in registry.providers and provider not in registry.absent and provider != "openai":
        names = ", ".join(sorted({*registry.providers, *registry.absent, "openai", "ollama"}))
        raise ConfigError(f"there is no provider '{provider}'; there are: {names}")
    registry.register(name, model)


def _server_settings(settings: Settings, host: str, port: int, auth: bool) -> Settings:
    if not auth and host not in LOOPBACK:
        raise ConfigError(f"without auth the service listens on loopback only, not on '{host}'; pass auth=True")
    if not isinstance(port, int) or not 0 <= port <= 65535:
        raise ConfigError(f"'port' must be a whole number from 0 to 65535, not {port!r}")
    api = settings.api.model_copy(update={"host": host, "port": port})
    return settings.model_copy(update={"api": api, "auth": settings.auth.model_copy(update={"enabled": auth})})


def _body(
    model: str,
    prompt: str | None,
    messages: Sequence[dict[str, Any]] | None,
    parameters: dict[str, Any],
    *,
    stream: bool = False,
) -> dict[str, Any]:
    if "stream" in parameters:
        raise InvalidRequest("'stream' is not a parameter here: call stream() or generate()", param="stream")
    body: dict[str, Any] = {"model": model, **parameters}
    if stream:
        body["stream"] = True
    if prompt is not None:
        body["prompt"] = prompt
    if messages is not None:
        body["messages"] = list(messages)
    return body


def _new_loop() -> asyncio.AbstractEventLoop:
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    loop = uvloop.new_event_loop()
    assert isinstance(loop, asyncio.AbstractEventLoop)
    return loop


async def _next(texts: AsyncIterator[str]) -> str:
    return await texts.__anext__()


async def _close(texts: Any) -> None:
    await texts.aclose()
