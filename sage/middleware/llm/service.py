"""The gateway as a Python object: :class:`LLMService`."""

from __future__ import annotations

import asyncio
import os
import threading
import weakref
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

from sage.errors import ConfigError, InvalidRequest, Unavailable
from sage.forks import forks
from sage.middleware.app.gateway_server import GatewayServer, bind
from sage.middleware.app.main import create_app, make_gateway
from sage.middleware.app.server import make_server
from sage.middleware.auth.principal import LOCAL
from sage.middleware.client.connection import Client
from sage.middleware.client.handle import JobHandle
from sage.middleware.client.jobs import JobsClient
from sage.middleware.gateway.gateway import Gateway
from sage.middleware.llm.answers import Generation, generate, request_body, stream
from sage.middleware.llm.gateway_thread import GatewayThread
from sage.middleware.llm.private_server import PrivateServer
from sage.middleware.llm.program_end import program_end
from sage.middleware.llm.registration import register, register_on_loop
from sage.middleware.llm.signals import StopSignals
from sage.middleware.providers.base import MAX_NAME
from sage.middleware.settings.reading import find_config, load_settings
from sage.middleware.settings.settings import LOOPBACK, DeploymentSettings, Model, Settings

if TYPE_CHECKING:
    from sage.middleware.retrieval.embedding.protocols import Models
    from sage.service.vdb.sharded.collections import AnyCollection

T = TypeVar("T")


class LLMService:
    """The gateway in this process: call it from Python, and :meth:`start` it to serve HTTP too.

    Without ``settings`` it reads the configuration as ``sage serve`` does. The work runs on an event loop in a thread
    of its own, which starts with the first call and ends with :meth:`stop`, with the program, or when nobody holds this
    object any more. Only a service that serves HTTP keeps a program alive.

    All methods may be called from any thread, and in a notebook. Those that block also block an event loop that runs
    on their thread; there, ``await`` :meth:`agenerate`, :meth:`astream`, :meth:`aload` and :meth:`aunload`.
    """

    def __init__(self, settings: Settings | None = None) -> None:
        self._settings = settings or load_settings(find_config(None, os.environ), os.environ)
        self._lock = threading.RLock()
        self._forks = forks.count
        self._of_parent: Any = None
        self._running: GatewayThread | None = None
        self._server: GatewayServer | None = None
        self._serving: Future[None] | None = None
        self._serves_accounts = False
        self._private: PrivateServer | None = None
        """For the workers of jobs, while it does not serve."""
        self._signals: StopSignals | None = None
        self._abandoned: Any = None
        """Closes what runs, when nobody holds this service any more."""
        self._registered: dict[str, tuple[Model, str]] = {}
        self.url: str | None = None
        """The address that it listens on; ``None`` while it does not serve."""

    def __repr__(self) -> str:
        state = f"serves at {self.url}" if self.url else "open" if self._running else "not running"
        names = f", registered: {', '.join(self._registered)}" if self._registered else ""
        return f"<LLMService: {state}{names}>"

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
        self._result(lambda gateway: register_on_loop(gateway, name, settings, provider))
        self._registered[name] = settings, provider

    def start(self, host: str = "127.0.0.1", port: int = 8000, *, auth: bool = False) -> None:
        """Serves HTTP at ``host:port``; returns once ready. It serves until :meth:`stop`, Ctrl-C or SIGTERM, also when
        the program has come to its end; but not when that is an exception, or an exit with a status other than 0.

        Without ``auth`` it serves on loopback only, open to everyone on this machine. Raises :class:`ConfigError` when
        the port is taken or the address is not allowed.
        """
        with self._locked(), ExitStack() as undo:
            if self._server is not None:
                raise ConfigError(f"this service already runs at {self.url}; stop() it first")
            settings = _server_settings(self._settings, host, port, auth)
            sock = undo.enter_context(bind(host, port))  # first: with a taken port, nothing is begun
            running, ready = self._open(), threading.Event()
            self._end_private()
            server = make_server(create_app(settings, gateway=running.gateway), settings, ready.set)
            serving = running.submit(server.serve(sockets=[sock]))
            serving.add_done_callback(lambda _: ready.set())
            ready.wait()
            if serving.done():
                serving.result()
                raise ConfigError(f"the service did not start at {host}:{port}")
            undo.pop_all()
            address = f"[{host}]" if ":" in host else host
            self.url = f"http://{address}:{sock.getsockname()[1]}"
            self._server, self._serving, self._serves_accounts = server, serving, auth
            serving.add_done_callback(lambda _: program_end.notice())
            program_end.notice()
            self._signals = StopSignals(self.stop)
            self._signals.watch()

    def stop(self) -> None:
        """Stops serving once the running requests have ended, and stops every engine. May be called again."""
        with self._locked():
            if self._signals is not None:
                self._signals.unwatch()
                self._signals = None
            if self._server is not None:
                self._end_serving(self._server)
            self._end_private()
            if self._running is not None:
                self._abandoned.detach()
                self._running.close()
                self._running = None
            program_end.remove(self)

    @property
    def is_serving(self) -> bool:
        """Whether it serves HTTP."""
        return self._serving is not None and not self._serving.done()

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
        body = request_body(model, prompt, messages, parameters)
        return self._result(lambda gateway: generate(gateway, body))

    async def agenerate(
        self,
        model: str,
        prompt: str | None = None,
        *,
        messages: Sequence[dict[str, Any]] | None = None,
        **parameters: Any,
    ) -> Generation:
        """As :meth:`generate`, to be awaited on any event loop. Cancelling it cancels the call upstream."""
        body = request_body(model, prompt, messages, parameters)
        running = await self._open_async()
        return await running.result_async(generate(running.gateway, body))

    def stream(
        self,
        model: str,
        prompt: str | None = None,
        *,
        messages: Sequence[dict[str, Any]] | None = None,
        **parameters: Any,
    ) -> Iterator[str]:
        """The text of the answer in parts, as it arrives. Leaving the loop cancels the call upstream."""
        body = request_body(model, prompt, messages, parameters, stream=True)
        running = self._open()
        texts = stream(running.gateway, body)
        try:
            while (text := running.result(_next(texts))) is not None:
                yield text
        finally:
            with suppress(Unavailable, InvalidRequest):  # the service has stopped, or its loop collects this as garbage
                running.result(_close(texts))

    async def astream(
        self,
        model: str,
        prompt: str | None = None,
        *,
        messages: Sequence[dict[str, Any]] | None = None,
        **parameters: Any,
    ) -> AsyncIterator[str]:
        """As :meth:`stream`, for ``async for`` on any event loop."""
        body = request_body(model, prompt, messages, parameters, stream=True)
        running = await self._open_async()
        texts = stream(running.gateway, body)
        try:
            while (text := await running.result_async(_next(texts))) is not None:
                yield text
        finally:
            with suppress(Unavailable):
                await running.result_async(_close(texts))

    def submit(self, kind: str, *, idempotency_key: str | None = None, **fields: Any) -> JobHandle:
        """Submits a durable job of the user ``local``: ``submit("generate", model="m", prompt="…")``, or with
        ``requests=[…]`` many at once; ``fields`` as in ``POST /tasks/{kind}``.

        It is in ``data_dir`` once this returns. Workers do it as long as this service is open; what is left when the
        program ends goes on when the next one uses :attr:`jobs`, or with ``sage serve --no-auth``. A second submission
        with the same ``idempotency_key`` and fields is the first one's job. Raises :class:`ConfigError` when another
        gateway runs on ``data_dir``: ``JobsClient()`` submits to that one.
        """
        return self.jobs.submit(kind, fields, idempotency_key=idempotency_key)

    async def asubmit(self, kind: str, *, idempotency_key: str | None = None, **fields: Any) -> JobHandle:
        """As :meth:`submit`, to be awaited on any event loop."""
        return await asyncio.to_thread(lambda: self.submit(kind, idempotency_key=idempotency_key, **fields))

    @property
    def jobs(self) -> JobsClient:
        """The durable jobs of the user ``local``. The first call lets those of earlier programs go on."""
        return JobsClient(connect=self._connect_jobs)

    def collection(self, name: str = "default") -> AnyCollection:
        """The collection of that name of the user ``local``, for ``search`` to use; it is created if it does not exist.

        Its methods block, and use models of this service if they need any. :meth:`stop` closes it.
        """
        running = self._open()
        program_end.hold(self)
        return running.gateway.collections.open(LOCAL, name, create=True)

    @property
    def search_models(self) -> Models:
        """The models of this service as embedders and rerankers.

        For ``VectorStore(path, embedder="provider/model", models=service.search_models)``.
        """
        # imported here: only collections need it
        from sage.middleware.gateway.collections.embedders import RegistryModels

        self._open()
        return RegistryModels(self._running_gateway, directory=self._settings.data_dir / "models")

    def load(self, model: str) -> dict[str, Any]:
        """Loads a local model; returns its state as ``GET /models/{name}`` does."""
        return self._result(lambda gateway: gateway.registry.load(model)).describe()

    async def aload(self, model: str) -> dict[str, Any]:
        """As :meth:`load`, to be awaited on any event loop."""
        running = await self._open_async()
        loaded = await running.result_async(running.gateway.registry.load(model))
        return loaded.describe()

    def unload(self, model: str) -> dict[str, Any]:
        """Ends a local model's process; returns its state."""
        return self._result(lambda gateway: gateway.registry.unload(model)).describe()

    async def aunload(self, model: str) -> dict[str, Any]:
        """As :meth:`unload`, to be awaited on any event loop."""
        running = await self._open_async()
        unloaded = await running.result_async(running.gateway.registry.unload(model))
        return unloaded.describe()

    def models(self) -> list[dict[str, Any]]:
        """The state of every registered model."""
        return [model.describe() for model in self._open().gateway.registry.models()]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _locked(self) -> threading.RLock:
        """The lock. After a fork it is another one: what runs belongs to the parent process, whose threads are not
        here, and must not even be freed."""
        if self._forks != forks.count:
            self._forks = forks.count
            if self._abandoned is not None:
                self._abandoned.detach()
            self._of_parent = self._of_parent, self._running, self._server, self._serving, self._private
            self._running = self._server = self._serving = self._private = self.url = None
            self._lock = threading.RLock()
        return self._lock

    def _running_here(self) -> GatewayThread | None:
        """The gateway if it is open in this process."""
        return self._running if self._forks == forks.count else None

    def _open(self) -> GatewayThread:
        """The gateway, which is opened by the first call."""
        running = self._running_here()
        if running is not None:
            return running
        with self._locked():
            if self._running is None:
                gateway = make_gateway(self._settings)
                for name, (model, provider) in self._registered.items():
                    register(gateway, name, model, provider)
                self._running = GatewayThread(gateway)
                self._abandoned = weakref.finalize(self, _abandon, self._running)
                self._abandoned.atexit = False
                program_end.add(self)
            return self._running

    async def _open_async(self) -> GatewayThread:
        """As :meth:`_open`, without blocking the caller's event loop."""
        running = self._running_here()
        return await asyncio.to_thread(self._open) if running is None else running

    def _running_gateway(self) -> tuple[Gateway, asyncio.AbstractEventLoop]:
        return self._open().gateway.running_gateway()

    def _result(self, work: Callable[[Gateway], Coroutine[Any, Any, T]]) -> T:
        running = self._open()
        return running.result(work(running.gateway))

    def _connect_jobs(self) -> Client:
        """Jobs are done over HTTP: that of this service if it serves, else a server of its own for them."""
        with self._locked():
            if self._server is not None and self.url is not None:
                if self._serves_accounts:
                    raise ConfigError("started with auth=True, it takes jobs of users: JobsClient(service.url, key)")
                return Client(self.url, None)
            running = self._open()
            if self._private is None:
                self._private = PrivateServer(self._settings, running)
            return Client(self._private.url, self._private.secret)

    def _end_private(self) -> None:
        if self._private is not None:
            private, self._private = self._private, None
            private.close()

    def _end_serving(self, server: GatewayServer) -> None:
        server.should_exit = True
        try:
            assert self._serving is not None
            self._serving.result()
        except BaseException:  # Ctrl-C again: the running requests are not waited for
            server.force_exit = True
            raise
        finally:
            self._server, self._serving, self.url = None, None, None


def default_search_models() -> Models:
    """The models of the configuration, for a ``VectorStore`` with a model's name (entry point ``sage.search_models``).

    Their service stops when the program ends.
    """
    return LLMService().search_models


def _abandon(running: GatewayThread) -> None:
    """For the finalizer of a service."""
    program_end.await_closing(running.close_soon())


async def _next(texts: AsyncIterator[str]) -> str | None:
    """``None`` means that the answer is complete."""
    return await anext(texts, None)


async def _close(texts: Any) -> None:
    if not texts.ag_running:  # else it was cancelled just now, and ends by that
        await texts.aclose()


def _server_settings(settings: Settings, host: str, port: int, auth: bool) -> Settings:
    if not auth and host not in LOOPBACK:
        raise ConfigError(f"without auth the service listens on loopback only, not on '{host}'; pass auth=True")
    if not isinstance(port, int) or not 0 <= port <= 65535:
        raise ConfigError(f"'port' must be a whole number from 0 to 65535, not {port!r}")
    api = settings.api.model_copy(update={"host": host, "port": port})
    return settings.model_copy(update={"api": api, "auth": settings.auth.model_copy(update={"enabled": auth})})
