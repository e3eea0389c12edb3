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
from sage.middleware.providers.base import ModelCall
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
    """A whole answer. ``usage`` holds ``prompt_tokens``, ``completion_tokens`` and ``total_tokens``; ``sources`` what
    the model was shown where ``search`` was asked for (``{number, id, collection, text, metadata, score}``),
    ``memories`` what it was shown where ``memory`` was; ``warnings`` say why a turn was not stored."""

    id: str
    model: str
    text: str
    finish_reason: str | None
    usage: dict[str, int]
    provider: str
    sources: list[Source] | None = None
    memories: list[Memory] | None = None
    warnings: list[str] | None = None


class LLMService:
    """The gateway in this process: call it from Python, and :meth:`start` it to serve HTTP too.

    Reads the configuration as ``sage serve`` does, unless ``settings`` are given. All methods may be called from any
    thread that runs no event loop. The work is done on an event loop in a thread of its own, which begins with the
    first call and ends with :meth:`stop`.
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
        self._tasks: set[asyncio.Task[Any]] = set()  # the loop's own
        self.url: str | None = None
        """Where it listens, once started."""

    def register_model(
        self, name: str, provider: str, model: str | None = None, *, fallbacks: Sequence[str] = ()
    ) -> None:
        """Adds the public name ``name``, answered by ``provider`` under its own name ``model`` (the same if left out).

        A provider that is not configured is no error here: the model then says what is missing when it is called.
        ``ollama`` needs no configuration: it is looked for at its default address.
        """
        settings = Model(
            deployments=(DeploymentSettings(provider=provider, model=model or name),), fallbacks=tuple(fallbacks)
        )
        self._run(lambda gateway: _registering(gateway, name, settings, provider))
        self._registered[name] = settings, provider

    def start(self, host: str = "127.0.0.1", port: int = 8000, *, auth: bool = False) -> None:
        """Serves HTTP at ``host:port`` and returns once ready; lives until :meth:`stop` or Ctrl-C.

        Without ``auth`` only on loopback, open to everyone on this machine. Raises :class:`ConfigError` when the port
        is taken or the address is not allowed.
        """
        with self._lock:
            if self._server is not None:
                raise ConfigError(f"this service runs already at {self.url}; stop() it first")
            settings = _server_settings(self._settings, host, port, auth)
            gateway = self._opened()
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
            shown = f"[{host}]" if ":" in host else host
            self.url = f"http://{shown}:{sock.getsockname()[1]}"
            self._take_interrupts()

    def stop(self) -> None:
        """Ends serving once requests that run have ended, and every engine. Doing it twice is no error."""
        with self._lock:
            self._give_interrupts_back()
            if self._server is not None:
                self._server.should_exit = True
                self._serving.result()
                self._server, self.url = None, None
            if self._loop is not None and self._thread is not None:
                asyncio.run_coroutine_threadsafe(self._wind_up(self._gateway), self._loop).result()
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
        """The whole answer of ``model`` to a prompt or to messages; ``parameters`` as in ``POST /generate``.

        Raises :class:`sage.errors.SageError`, as HTTP's envelope would say it.
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
        """The answer's text, piece by piece as it comes. Leaving the loop ends the work upstream."""
        body = _body(model, prompt, messages, parameters, stream=True)
        with self._lock:
            pieces = _stream(self._opened(), body)
            loop = self._loop
        try:
            while True:
                try:
                    yield self._run(lambda _: _next(pieces), loop)
                except StopAsyncIteration:
                    return
        finally:
            if self._loop is loop:  # else stop() has ended the call, and nothing is to be started for it
                self._run(lambda _: _close(pieces), loop)

    def collection(self, name: str = "default") -> AnyCollection:
        """The collection of that name of the user ``local``, made if it is not there, for ``search`` to answer from.

        Its methods block, and ask models of this service where they need any. It is closed by :meth:`stop`.
        """
        return self._opened().collections.open(LOCAL, name, create=True)

    @property
    def search_models(self) -> Models:
        """Its models as embedders and rerankers, for ``VectorStore(path, embedder="provider/model", models=…)``."""
        from sage.middleware.gateway.collections.embedders import RegistryModels  # brings what only collections need

        return RegistryModels(self._opened().running_gateway)

    def load(self, model: str) -> dict[str, Any]:
        """Makes a local model ready; its state, as ``GET /models/{name}`` tells it."""
        return self._run(lambda gateway: gateway.registry.load(model)).describe()

    def unload(self, model: str) -> dict[str, Any]:
        """Ends a local model's process; its state."""
        return self._run(lambda gateway: gateway.registry.unload(model)).describe()

    def models(self) -> list[dict[str, Any]]:
        """The state of every registered model."""
        return [model.describe() for model in self._opened().registry.models()]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _opened(self) -> Gateway:
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
        """The result of ``work`` on the loop; with ``loop`` only if it is still that one.

        What runs on the loop never takes the lock: whoever holds it may be waiting for the loop.
        """
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            pass
        else:
            raise InvalidRequest("LLMService blocks: call it from a thread that runs no event loop (asyncio.to_thread)")
        with self._lock:  # also while it is handed over, so that stop() sees it
            if loop is not None and self._loop is not loop:
                raise _stopped()
            gateway = self._opened()
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

    async def _wind_up(self, gateway: Gateway | None) -> None:
        """Ends what runs, the gateway, and streams that were left half read."""
        running = list(self._tasks)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        if gateway is not None:
            await gateway.close()
        await asyncio.get_running_loop().shutdown_asyncgens()

    def _take_interrupts(self) -> None:
        """Ctrl-C stops the service, and then does what it did before."""
        if threading.current_thread() is threading.main_thread():
            self._previous_handler = signal.signal(signal.SIGINT, self._on_interrupt)

    def _give_interrupts_back(self) -> None:
        if self._previous_handler is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, self._previous_handler)
            self._previous_handler = None

    def _on_interrupt(self, number: int, frame: FrameType | None) -> None:
        self.stop()
        if threading.main_thread().is_alive():  # else the program has ended and only waits for this service
            raise KeyboardInterrupt


def default_search_models() -> Models:
    """The models of the configuration, for a ``VectorStore`` that names one (entry point ``sage.search_models``).

    Their service ends with the program.
    """
    service = LLMService()

    def end() -> None:
        threading.main_thread().join()
        service.stop()

    threading.Thread(target=end, name="end of the models", daemon=True).start()
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
    """The call, with what ``search`` and ``memory`` put into it."""
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


async def _registering(gateway: Gateway, name: str, model: Model, provider: str) -> None:
    _register(gateway, name, model, provider)


def _register(gateway: Gateway, name: str, model: Model, provider: str) -> None:
    registry = gateway.registry
    if provider == "ollama" and provider not in registry.providers:
        registry.providers[provider] = OllamaProvider(provider, OllamaSettings(base_url=_OLLAMA))
    elif provider not in registry.providers and provider not in registry.absent and provider != "openai":
        known = ", ".join(sorted({*registry.providers, *registry.absent, "openai", "ollama"}))
        raise ConfigError(f"there is no provider '{provider}'; there are: {known}")
    registry.register(name, model)


def _server_settings(settings: Settings, host: str, port: int, auth: bool) -> Settings:
    if not auth and host not in LOOPBACK:
        raise ConfigError(f"without auth the service listens on loopback only, not on '{host}'; pass auth=True")
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
        raise InvalidRequest("'stream' is no parameter here: call stream() or generate()", param="stream")
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


async def _next(pieces: AsyncIterator[str]) -> str:
    return await pieces.__anext__()


async def _close(pieces: Any) -> None:
    await pieces.aclose()
