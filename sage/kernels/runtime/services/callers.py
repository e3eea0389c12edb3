"""How services are called: ``call_service["name"].method(…)``, and the same with futures."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Generic, TypeVar

from sage.errors import InvalidRequest, NotFound, SageError, Unavailable
from sage.kernels.runtime.services.calls import ServiceCall, current_call, inherited, refuse_on_loop
from sage.kernels.runtime.services.spec import CallTarget

R = TypeVar("R")
_PAUSE = 0.05
"""Seconds between two attempts."""


class UnknownMethod(NotFound, AttributeError):
    """The service has no public method of that name."""

    default_code = "unknown_method"


class _BoundMethod:
    """One method of one service, ready to be called; ``waits``: it gives the result, else the future."""

    __slots__ = ("_host", "_name", "_own_timeout", "_proxy", "_waits")

    def __init__(self, proxy: ServiceProxy, host: CallTarget, name: str, waits: bool) -> None:
        method = host.methods().get(name)
        if method is None:
            known = ", ".join(sorted(host.methods())) or "none"
            raise UnknownMethod(f"the service '{proxy._name}' has no public method '{name}'; it has: {known}")
        self._proxy = proxy
        self._host = host
        self._name = name
        self._waits = waits
        self._own_timeout = method.takes_timeout

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._sent(args, kwargs)

    def map(self, items: Iterable[Any], **kwargs: Any) -> Any:
        """The results of ``method(item)`` for all, in order, in one crossing of the queue. The first error ends it."""
        return self.starmap(((item,) for item in items), **kwargs)

    def starmap(self, items: Iterable[Iterable[Any]], **kwargs: Any) -> Any:
        """As :meth:`map`, with several arguments each."""
        return self._sent([tuple(item) for item in items], kwargs, is_batch=True)

    def _sent(self, args: Any, kwargs: dict[str, Any], is_batch: bool = False) -> Any:
        proxy = self._proxy
        timeout = proxy._timeout
        if kwargs and not self._own_timeout and "timeout" in kwargs:
            timeout = kwargs.pop("timeout")
        if proxy._retries:
            return self._retried(args, kwargs, is_batch, timeout)
        call = self._attempt(args, kwargs, is_batch, timeout)
        if not self._waits:
            return call
        return call.result() if len(call.call_chain) == 1 else _result_within(call)

    def _attempt(self, args: Any, kwargs: dict[str, Any], is_batch: bool, timeout: float | None) -> ServiceCall:
        proxy, waits = self._proxy, self._waits
        if waits:
            refuse_on_loop(proxy._name)
        call_chain, deadline = inherited(proxy._name, timeout, waits)
        call = ServiceCall(self._name, args, kwargs, call_chain, deadline, proxy._order, is_batch, waits)
        try:
            self._host.submit(call)
        except Unavailable:
            if not self._renewed():
                raise
            self._host.submit(call)
        return call

    def _renewed(self) -> bool:
        """Whether the service runs anew since: its environment was stopped and started again."""
        host = self._proxy._renewed()
        if host is self._host or self._name not in host.methods():
            return False
        self._host = host
        return True

    def _retried(self, args: Any, kwargs: dict[str, Any], is_batch: bool, timeout: float | None) -> Any:
        """The same with further attempts; one future stands for all of them."""
        if self._waits:
            refuse_on_loop(self._proxy._name)
        call_chain, deadline = inherited(self._proxy._name, timeout, self._waits)
        whole = ServiceCall(self._name, args, kwargs, call_chain, deadline)
        self._renewed()
        attempts = _Attempts(self._host, whole, self._proxy._order, is_batch, self._proxy._retries)
        attempts.begin()
        return whole.result() if self._waits else whole


def _result_within(call: ServiceCall) -> Any:
    """The result of a call that a service's method waits for; it ends when the call of that method is abandoned."""
    outer = current_call()
    if outer is None or outer.on_abandon is not None:  # one of several threads that work for it
        return call.result()
    outer.on_abandon = call.cancel
    if outer.abandoned:
        call.cancel()
    try:
        return call.result()
    finally:
        outer.on_abandon = None


class _Attempts:
    """Several calls that stand for one: a further one is made when one failed because the service was unavailable."""

    def __init__(self, host: CallTarget, whole: ServiceCall, order: Any, is_batch: bool, retries: int) -> None:
        self._host = host
        self._whole = whole
        self._order = order
        self._is_batch = is_batch
        self._retries = retries

    def begin(self) -> None:
        whole = self._whole
        if whole.settled:
            return  # it was cancelled between two attempts
        call = ServiceCall(
            whole.method, whole.args, whole.kwargs, whole.call_chain, whole.deadline, self._order, self._is_batch
        )
        whole.on_abandon = call.cancel
        if whole.abandoned:
            call.cancel()
        try:
            self._host.submit(call)
        except SageError as exc:
            self._ended(exc, None)
        else:
            call.add_done_callback(lambda call: self._ended(call.exception(), call))

    def _ended(self, error: BaseException | None, call: ServiceCall | None) -> None:
        if error is None and call is not None:
            self._whole.succeed(call.result())
        elif isinstance(error, Unavailable) and self._retries > 0 and not self._whole.settled:
            self._retries -= 1
            pause = threading.Timer(_PAUSE, self.begin)
            pause.daemon = True
            try:
                pause.start()
            except RuntimeError:  # no further thread can be made
                self._whole.fail(error)
        elif error is not None:
            self._whole.fail(error)


class ServiceProxy:
    """A service as its callers see it: its public methods, and :meth:`options` (a method of that name: by
    ``call_service(name, method="options")``)."""

    def __init__(
        self,
        name: str,
        host: CallTarget,
        waits: bool,
        timeout: float | None = None,
        order: Any = None,
        retries: int = 0,
        find: Callable[[], CallTarget | None] = lambda: None,
    ) -> None:
        """``find``: the host that runs it now."""
        self._name = name
        self._timeout = timeout
        self._order = order
        self._retries = retries
        self._host = host
        self._waits = waits
        self._find = find

    def _renewed(self) -> CallTarget:
        self._host = self._find() or self._host
        return self._host

    def options(self, *, timeout: float | None = None, order: Any = None, retries: int = 0) -> ServiceProxy:
        """The same service, called otherwise: ``timeout`` in seconds, ``order`` a key whose calls run one after another
        in the order in which they were made, ``retries`` further attempts when a call failed because the service was
        full or died (then it may have run more than once)."""
        try:
            hash(order)
        except TypeError:
            raise InvalidRequest(
                f"'order' must be a key that can be hashed, not {order!r:.80}", param="order"
            ) from None
        return ServiceProxy(self._name, self._host, self._waits, timeout, order, retries, self._find)

    def __getattr__(self, name: str) -> _BoundMethod:
        if name.startswith("_"):
            raise AttributeError(f"'{name}' is private to the service '{self._name}'")
        return self._method(name)

    def _method(self, name: str) -> _BoundMethod:
        """Of any public name, also one that a proxy has itself."""
        bound = _BoundMethod(self, self._host, name, self._waits)
        if name != "options":
            self.__dict__[name] = bound  # the next time it is there
        return bound


class _Caller(Generic[R]):
    """Finds services of one environment by name."""

    _waits = True

    def __init__(self, hosts: Callable[[], Mapping[str, CallTarget]], environment: str) -> None:
        self._hosts = hosts
        self._environment = environment
        self._proxies: dict[str, ServiceProxy] = {}

    def __getitem__(self, name: str) -> ServiceProxy:
        proxy = self._proxies.get(name)
        if proxy is None:
            host = self._find(name)
            proxy = ServiceProxy(name, host, self._waits, find=lambda: self._hosts().get(name))
            self._proxies[name] = proxy
            if self._hosts().get(name) is not host:  # it was stopped meanwhile
                self._proxies.pop(name, None)
        return proxy

    def __contains__(self, name: object) -> bool:
        return name in self._hosts()

    def __call__(self, name: str, /, *args: Any, method: str, timeout: float | None = None, **kwargs: Any) -> R:
        """``call_service("kv_service", "key", method="get", timeout=1)``."""
        proxy = self[name] if timeout is None else self[name].options(timeout=timeout)
        found: R = proxy._method(method)(*args, **kwargs)
        return found

    def _find(self, name: str) -> CallTarget:
        hosts = self._hosts()
        if name not in hosts:
            known = ", ".join(sorted(hosts)) or "none"
            raise NotFound(
                f"the environment '{self._environment}' runs no service '{name}'; it runs: {known} "
                "(env.register_service, then env.start() or a job)",
                code="unknown_service",
            )
        return hosts[name]


class ServiceCaller(_Caller[Any]):
    """Calls that wait for their result. Refused on a running event loop."""


class AsyncServiceCaller(_Caller[ServiceCall]):
    """Calls that give a :class:`ServiceCall`, a future that can be awaited, waited for and cancelled."""

    _waits = False


Callers = tuple[ServiceCaller, AsyncServiceCaller]
"""What an environment hands to whatever calls its services."""


def check_name(name: object) -> str:
    """Raises :class:`InvalidRequest` unless ``name`` can name a service."""
    if not isinstance(name, str) or not name.strip() or len(name) > 200:
        raise InvalidRequest(f"a service's name must be a text of up to 200 characters, not {name!r}")
    return name
