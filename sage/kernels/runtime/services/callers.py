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
"""Seconds between two attempts of a call with retries."""


class UnknownMethod(NotFound, AttributeError):
    """The service has no public method of that name."""

    default_code = "unknown_method"


class _BoundMethod:
    """One method of one service, ready to be called. With ``waits`` a call returns its result, else its future."""

    __slots__ = ("_name", "_own_timeout", "_proxy", "_target", "_waits")

    def __init__(self, proxy: ServiceProxy, target: CallTarget, name: str, waits: bool) -> None:
        method = target.methods().get(name)
        if method is None:
            names = ", ".join(sorted(target.methods())) or "none"
            raise UnknownMethod(f"the service '{proxy._name}' has no public method '{name}'; it has: {names}")
        self._proxy = proxy
        self._target = target
        self._name = name
        self._waits = waits
        self._own_timeout = method.takes_timeout

    def __repr__(self) -> str:
        return f"<method '{self._name}' of the service '{self._proxy._name}'>"

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._send(args, kwargs)

    def map(self, items: Iterable[Any], **kwargs: Any) -> Any:
        """The results of ``method(item)`` for all items, in order, by one call. The first error ends it."""
        return self.starmap(((item,) for item in items), **kwargs)

    def starmap(self, items: Iterable[Iterable[Any]], **kwargs: Any) -> Any:
        """As :meth:`map`, with several arguments each."""
        return self._send([tuple(item) for item in items], kwargs, is_batch=True)

    def _send(self, args: Any, kwargs: dict[str, Any], is_batch: bool = False) -> Any:
        proxy = self._proxy
        timeout = proxy._timeout
        if kwargs and not self._own_timeout and "timeout" in kwargs:
            timeout = kwargs.pop("timeout")
        if proxy._retries:
            return self._send_with_retries(args, kwargs, is_batch, timeout)
        call = self._send_once(args, kwargs, is_batch, timeout)
        if not self._waits:
            return call
        return call.result() if len(call.call_chain) == 1 else _result_within(call)

    def _send_once(self, args: Any, kwargs: dict[str, Any], is_batch: bool, timeout: float | None) -> ServiceCall:
        proxy, waits = self._proxy, self._waits
        if waits:
            refuse_on_loop(proxy._name)
        call_chain, deadline = inherited(proxy._name, timeout, waits)
        call = ServiceCall(self._name, args, kwargs, call_chain, deadline, proxy._order, is_batch, waits)
        try:
            self._target.submit(call)
        except Unavailable:
            if not self._find_again():
                raise
            self._target.submit(call)
        return call

    def _find_again(self) -> bool:
        """Returns whether the service runs elsewhere now: its environment was stopped and started again."""
        target = self._proxy._find_again()
        if target is self._target or self._name not in target.methods():
            return False
        self._target = target
        return True

    def _send_with_retries(self, args: Any, kwargs: dict[str, Any], is_batch: bool, timeout: float | None) -> Any:
        """One future stands for all attempts."""
        if self._waits:
            refuse_on_loop(self._proxy._name)
        call_chain, deadline = inherited(self._proxy._name, timeout, self._waits)
        call = ServiceCall(self._name, args, kwargs, call_chain, deadline)
        self._find_again()
        attempts = _Attempts(self._target, call, self._proxy._order, is_batch, self._proxy._retries)
        attempts.begin()
        return call.result() if self._waits else call


def _result_within(call: ServiceCall) -> Any:
    """The result of a call that a service's method waits for; the call ends when that of the method is abandoned."""
    outer = current_call()
    if outer is None or outer.on_abandon is not None:  # another thread of the method waits, too
        return call.result()
    outer.on_abandon = call.cancel
    if outer.abandoned:
        call.cancel()
    try:
        return call.result()
    finally:
        outer.on_abandon = None


class _Attempts:
    """Several attempts of one call: there is a further one when one failed because the service was unavailable."""

    def __init__(self, target: CallTarget, call: ServiceCall, order: Any, is_batch: bool, retries: int) -> None:
        self._target = target
        self._call = call
        self._order = order
        self._is_batch = is_batch
        self._retries = retries

    def begin(self) -> None:
        call = self._call
        if call.settled:
            return  # it was cancelled between two attempts
        attempt = ServiceCall(
            call.method, call.args, call.kwargs, call.call_chain, call.deadline, self._order, self._is_batch
        )
        call.on_abandon = attempt.cancel
        if call.abandoned:
            attempt.cancel()
        try:
            self._target.submit(attempt)
        except SageError as exc:
            self._end(exc, None)
        else:
            attempt.add_done_callback(lambda attempt: self._end(attempt.exception(), attempt))

    def _end(self, error: BaseException | None, attempt: ServiceCall | None) -> None:
        if error is None and attempt is not None:
            self._call.succeed(attempt.result())
        elif isinstance(error, Unavailable) and self._retries > 0 and not self._call.settled:
            self._retries -= 1
            pause = threading.Timer(_PAUSE, self.begin)
            pause.daemon = True
            try:
                pause.start()
            except RuntimeError:  # no further thread can be made
                self._call.fail(error)
        elif error is not None:
            self._call.fail(error)


class ServiceProxy:
    """A service as its callers see it: its public methods, and :meth:`options`. A method that has that name itself is
    called by ``call_service(name, method="options")``."""

    def __init__(
        self,
        name: str,
        target: CallTarget,
        waits: bool,
        timeout: float | None = None,
        order: Any = None,
        retries: int = 0,
        find: Callable[[], CallTarget | None] = lambda: None,
    ) -> None:
        """``find`` returns where the service runs now, or ``None``."""
        self._name = name
        self._timeout = timeout
        self._order = order
        self._retries = retries
        self._target = target
        self._waits = waits
        self._find = find

    def __repr__(self) -> str:
        return f"<service '{self._name}': {', '.join(sorted(self._target.methods()))}>"

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *self._target.methods()})

    def _find_again(self) -> CallTarget:
        self._target = self._find() or self._target
        return self._target

    def options(self, *, timeout: float | None = None, order: Any = None, retries: int = 0) -> ServiceProxy:
        """The same service with other options for its calls. ``timeout`` is in seconds. ``order`` is a key: calls with
        the same key run one after another, in the order in which they were made. ``retries`` is the number of further
        attempts when a call fails because the service was full or died; it may run more than once then."""
        try:
            hash(order)
        except TypeError:
            raise InvalidRequest(
                f"'order' must be a key that can be hashed, not {order!r:.80}", param="order"
            ) from None
        return ServiceProxy(self._name, self._target, self._waits, timeout, order, retries, self._find)

    def __getattr__(self, name: str) -> _BoundMethod:
        if name.startswith("_"):
            raise AttributeError(f"'{name}' is private to the service '{self._name}'")
        return self._method(name)

    def _method(self, name: str) -> _BoundMethod:
        """The method of any public name, also ``options``."""
        bound = _BoundMethod(self, self._target, name, self._waits)
        if name != "options":
            self.__dict__[name] = bound  # found without __getattr__ the next time
        return bound


class _Caller(Generic[R]):
    """Finds services of one environment by name."""

    _waits = True

    def __init__(self, targets: Callable[[], Mapping[str, CallTarget]], environment: str) -> None:
        self._targets = targets
        self._environment = environment
        self._proxies: dict[str, ServiceProxy] = {}

    def __getitem__(self, name: str) -> ServiceProxy:
        proxy = self._proxies.get(name)
        if proxy is None:
            target = self._find(name)
            proxy = ServiceProxy(name, target, self._waits, find=lambda: self._targets().get(name))
            self._proxies[name] = proxy
            if self._targets().get(name) is not target:  # it was stopped meanwhile
                self._proxies.pop(name, None)
        return proxy

    def __repr__(self) -> str:
        running = ", ".join(sorted(self._targets())) or "none"
        return f"<{type(self).__name__} of '{self._environment}': {running}>"

    def _ipython_key_completions_(self) -> list[str]:
        return sorted(self._targets())

    def __contains__(self, name: object) -> bool:
        return name in self._targets()

    def __call__(self, name: str, /, *args: Any, method: str, timeout: float | None = None, **kwargs: Any) -> R:
        """``call_service("kv_service", "key", method="get", timeout=1)``."""
        proxy = self[name] if timeout is None else self[name].options(timeout=timeout)
        result: R = proxy._method(method)(*args, **kwargs)
        return result

    def _find(self, name: str) -> CallTarget:
        targets = self._targets()
        if name not in targets:
            running = ", ".join(sorted(targets)) or "none"
            raise NotFound(
                f"the environment '{self._environment}' runs no service '{name}'; it runs: {running} "
                "(env.register_service, then env.start() or a job)",
                code="unknown_service",
            )
        return targets[name]


class ServiceCaller(_Caller[Any]):
    """Its calls wait for their result. They are refused in ``async`` methods of services."""


class AsyncServiceCaller(_Caller[ServiceCall]):
    """Its calls return a :class:`ServiceCall`: a future that can be awaited, waited for and cancelled."""

    _waits = False


Callers = tuple[ServiceCaller, AsyncServiceCaller]
"""What an environment hands to whatever calls its services."""


def check_name(name: object) -> str:
    """Raises :class:`InvalidRequest` unless ``name`` can name a service."""
    if not isinstance(name, str) or not name.strip() or len(name) > 200:
        raise InvalidRequest(f"a service's name must be a text of up to 200 characters, not {name!r}")
    return name
