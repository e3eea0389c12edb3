"""The models at an Ollama server: which are loaded, load, unload, pull and show, through Ollama's own SDK."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from sage.errors import DeadlineExceeded, MissingExtra, PermissionDenied, SageError, UpstreamFailed
from sage.middleware.providers.base import Endpoint, PullProgress
from sage.middleware.settings.providers import OllamaSettings

if TYPE_CHECKING:
    import httpx
    import ollama

_LATEST = ":latest"
MakeError = Callable[[int, Any, Mapping[str, str]], SageError]


def spellings(name: str) -> tuple[str, ...]:
    """Every way to write a model's name: one without a tag means the tag ``latest``."""
    if name.endswith(_LATEST):
        return name, name.removesuffix(_LATEST)
    return (name,) if ":" in name.rpartition("/")[2] else (name + _LATEST, name)


class OllamaHost:
    """The :class:`~sage.middleware.providers.base.ModelHost` of one Ollama server.

    Each use has a client of its own: httpx's pool does not survive cancellations.
    """

    def __init__(self, provider: str, endpoint: Endpoint, settings: OllamaSettings, make_error: MakeError) -> None:
        """``make_error`` makes our error of a status, a parsed body and headers."""
        self._provider = provider
        self._endpoint = endpoint
        self._timeouts = settings.timeouts
        self._allow_pull = settings.allow_pull
        self._make_error = make_error

    async def loaded(self) -> Mapping[str, Mapping[str, Any]]:
        """The models in memory; one with the tag ``latest`` is there under both of its names."""
        async with self._client(self._timeouts.first_byte) as client:
            answer = await client.ps()
        return {
            spelling: model.model_dump(mode="json", exclude_none=True)
            for model in answer.models
            if (name := model.model or model.name)
            for spelling in spellings(name)
        }

    async def load(self, model: str, *, pin: bool = False) -> None:
        async with self._client(self._timeouts.total) as client:
            await self._set_keep_alive(client, model, -1 if pin else None)

    async def unload(self, model: str) -> None:
        async with self._client(self._timeouts.total) as client:
            await self._set_keep_alive(client, model, 0)

    async def _set_keep_alive(self, client: ollama.AsyncClient, model: str, keep_alive: float | None) -> None:
        """Sends an empty prompt, or an empty text to embed to a model that can only embed and refuses the prompt."""
        from ollama import ResponseError

        try:
            await client.generate(model, prompt="", keep_alive=keep_alive)
        except ResponseError as exc:
            if exc.status_code != 400:
                raise
            await client.embed(model, input="", keep_alive=keep_alive)

    async def show(self, model: str) -> Mapping[str, Any]:
        async with self._client(self._timeouts.first_byte) as client:
            answer = await client.show(model)
        return answer.model_dump(mode="json", by_alias=True, exclude_none=True)

    async def pull(self, model: str) -> AsyncIterator[PullProgress]:
        """Fetches ``model`` if a pattern of ``allow_pull`` matches it; the last status is ``success``."""
        self._check_pull(model)
        async with self._client(self._timeouts.total) as client:
            last = None
            async for step in await client.pull(model, stream=True):
                last = step.status
                yield PullProgress(step.status or "", step.completed, step.total)
        if last != "success":
            raise UpstreamFailed(
                f"the provider '{self._provider}' ended the pull of '{model}' before it was done",
                code="upstream_broken",
            )

    def _check_pull(self, model: str) -> None:
        if not any(_matches(name, pattern) for name in spellings(model) for pattern in self._allow_pull):
            allowed = ", ".join(self._allow_pull) or "none"
            raise PermissionDenied(
                f"'{model}' may not be pulled: llm.providers.{self._provider}.allow_pull allows {allowed}; "
                "an administrator can add a pattern there",
                param="model",
                code="pull_not_allowed",
            )

    @asynccontextmanager
    async def _client(self, seconds: float) -> AsyncIterator[ollama.AsyncClient]:
        """The SDK's client for one use. Its errors become ours; the server may be silent for ``seconds``."""
        try:
            import ollama
        except ImportError as exc:
            raise MissingExtra(
                f"loading, unloading and pulling models of the provider '{self._provider}'", "ollama"
            ) from exc
        import httpx

        timeout = httpx.Timeout(seconds, connect=self._timeouts.connect)
        # No proxies, redirects or keys from the environment: only our configuration decides what is sent, and where.
        client = ollama.AsyncClient(
            self._endpoint.base_url,
            timeout=timeout,
            auth=self._sign,
            follow_redirects=False,
            trust_env=False,
            params=httpx.QueryParams(self._endpoint.query[1:]),
            proxy=self._endpoint.proxy,
        )
        try:
            yield client
        except ollama.ResponseError as exc:
            raise self._make_error(
                exc.status_code if exc.status_code >= 400 else 502, {"error": exc.error}, {}
            ) from exc
        except httpx.TimeoutException as exc:
            raise DeadlineExceeded(
                f"the provider '{self._provider}' did not answer in {seconds:g} s", code="upstream_timeout"
            ) from exc
        except (httpx.HTTPError, ConnectionError) as exc:
            raise UpstreamFailed(
                f"the provider '{self._provider}' cannot be reached: {type(exc).__name__}", code="upstream_unreachable"
            ) from exc
        except (ValueError, TypeError, AttributeError) as exc:  # the SDK's, for JSON of another shape or no JSON
            raise UpstreamFailed(
                f"the provider '{self._provider}' answered with something that is no answer of Ollama's",
                code="upstream_nonsense",
            ) from exc
        finally:
            await client.close()  # type: ignore[no-untyped-call]

    def _sign(self, request: httpx.Request) -> httpx.Request:
        """Sets our headers, and no other key: the SDK would add that of ``OLLAMA_API_KEY``."""
        request.headers.pop("authorization", None)
        request.headers.update(dict(self._endpoint.headers))
        return request


def _matches(name: str, pattern: str) -> bool:
    """Matches part by part: ``*`` must not span ``/``, since a name with more parts comes from another registry."""
    names, patterns = name.split("/"), pattern.split("/")
    return len(names) == len(patterns) and all(map(fnmatchcase, names, patterns))
