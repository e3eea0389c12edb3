"""HTTP to the gateway from inside a job: with the rights of who asked for it, behind live traffic."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp
import orjson

_JSON = "application/json"
_RECONNECT_SECONDS = 5.0
"""How long a gateway that takes no connection is tried again: it may be restarting."""
Body = bytes | AsyncIterator[bytes]


@dataclass(slots=True)
class Answer:
    """What the gateway answered, whole."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def ok(self) -> bool:
        """Whether the status is one of success."""
        return 200 <= self.status < 300

    def json(self) -> Any:
        """Raises :class:`ValueError`."""
        return orjson.loads(self.body)

    @property
    def error(self) -> dict[str, Any]:
        """The error in the body; one of its own where there is none."""
        with contextlib.suppress(ValueError):
            value = orjson.loads(self.body)
            if isinstance(value, dict) and isinstance(value.get("error"), dict):
                return dict(value["error"])
        return {"message": f"the gateway answered with {self.status}", "code": "upstream_failed"}

    @property
    def retry_after(self) -> float | None:
        """Seconds until another try makes sense; ``None`` means that the gateway did not say."""
        try:
            return max(0.0, float(self.headers["Retry-After"]))
        except (KeyError, ValueError):
            return None


class AnswerStream:
    """An answer whose body is read as it comes."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self.status = response.status
        self.headers: Mapping[str, str] = response.headers
        self._response = response

    @property
    def ok(self) -> bool:
        """Whether the status is one of success."""
        return 200 <= self.status < 300

    async def chunks(self, size: int = 2**16) -> AsyncIterator[bytes]:
        """The body in parts of at most ``size`` bytes. Raises :class:`ConnectionError` when it breaks off."""
        try:
            async for part in self._response.content.iter_chunked(size):
                yield part
        except aiohttp.ClientError as exc:
            raise ConnectionError(f"the answer broke off: {exc}") from exc

    async def read(self) -> Answer:
        """All of it."""
        return Answer(self.status, self.headers, b"".join([part async for part in self.chunks()]))


class JobClient:
    """Calls routes of the gateway. Any status is a value; a connection that is lost is a :class:`ConnectionError`.

    A call that gives way to live traffic (503, ``live_traffic_first``) waits and is made again, without end: the time
    limit of the job counts. A gateway that takes no connection is tried again for some seconds.
    """

    def __init__(self, session: aiohttp.ClientSession, url: str, credential: Callable[[], str]) -> None:
        """``credential`` is asked for each call, since it is renewed meanwhile."""
        self._session = session
        self._url = url.rstrip("/")
        self._credential = credential

    async def get(self, path: str, **options: Any) -> Answer:
        """As :meth:`request`."""
        return await self.request("GET", path, **options)

    async def post(self, path: str, json: Any = None, **options: Any) -> Answer:
        """As :meth:`request`."""
        return await self.request("POST", path, json=json, **options)

    async def put(self, path: str, json: Any = None, **options: Any) -> Answer:
        """As :meth:`request`."""
        return await self.request("PUT", path, json=json, **options)

    async def delete(self, path: str, **options: Any) -> Answer:
        """As :meth:`request`."""
        return await self.request("DELETE", path, **options)

    async def request(
        self,
        method: str,
        path: str,
        *,
        json: Any = None,
        body: Body | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float | None = None,
    ) -> Answer:
        """Sends ``json``, or ``body`` as it is. ``timeout``: seconds for all of it, ``None`` means any.

        Raises :class:`ConnectionError` and :class:`TimeoutError`.
        """
        async with asyncio.timeout(timeout):
            while True:
                async with self.stream(method, path, json=json, body=body, headers=headers) as stream:
                    answer = await stream.read()
                if answer.status != 503 or answer.error.get("code") != "live_traffic_first":
                    return answer
                if body is not None and not isinstance(body, bytes):
                    return answer  # it has been sent, and cannot be sent again
                await asyncio.sleep((answer.retry_after or 1.0) * random.uniform(0.8, 1.5))  # noqa: S311

    @contextlib.asynccontextmanager
    async def stream(
        self,
        method: str,
        path: str,
        *,
        json: Any = None,
        body: Body | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> AsyncIterator[AnswerStream]:
        """As :meth:`request`, once, with the body as it comes. Leaving it closes the connection if there is more."""
        fields = {
            "Authorization": f"Bearer {self._credential()}",
            "x-sage-priority": "low",
            **({"Content-Type": _JSON} if json is not None else {}),
            **(headers or {}),
        }
        data = body if json is None else orjson.dumps(json)
        response = await self._connected(method, path, data, fields)
        try:
            yield AnswerStream(response)
        finally:
            if not response.content.at_eof():
                response.close()
            response.release()

    async def _connected(
        self, method: str, path: str, data: Body | None, fields: Mapping[str, str]
    ) -> aiohttp.ClientResponse:
        loop = asyncio.get_running_loop()
        end, pause = loop.time() + _RECONNECT_SECONDS, 0.1
        while True:
            try:
                return await self._session.request(method, self._url + path, data=data, headers=fields)
            except aiohttp.ClientConnectorError as exc:  # nothing has been sent
                if loop.time() + pause > end:
                    raise ConnectionError(f"no connection to the gateway: {exc.os_error}") from exc
            except aiohttp.ClientError as exc:
                raise ConnectionError(f"the connection to the gateway was lost: {exc}") from exc
            await asyncio.sleep(pause)
            pause = min(2 * pause, 1.0)


def make_session() -> aiohttp.ClientSession:
    """A session without limits of its own: jobs have theirs. Made on the loop that uses it."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=3.0),  # less than the gateway's own
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=10.0),
        auto_decompress=True,
    )
