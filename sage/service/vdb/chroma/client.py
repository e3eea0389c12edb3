"""A connection to Chroma: embedded, in memory, or to a server; and its errors as ours."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from sage.errors import InvalidRequest, MissingExtra, NotFound, RateLimited, SageError, Unavailable, UpstreamFailed

_CONNECT_SECONDS = 3.0
_ANSWER_SECONDS = 30.0
GONE = "chroma_collection_gone"
"""The code of a :class:`NotFound` of a collection that Chroma does not have, or has anew."""


def connect(directory: Path | None, url: str | None) -> Any:
    """A client. Raises :class:`sage.errors.MissingExtra`, and :class:`sage.errors.Unavailable` when the server does
    not answer."""
    try:
        import chromadb
        from chromadb.config import Settings
    except ImportError:
        raise MissingExtra("The vector service's backend 'chroma'", "chroma") from None
    settings = Settings(anonymized_telemetry=False)
    with translated(url):
        if url is not None:
            return _connected(chromadb, settings, url)
        if directory is not None:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            return chromadb.PersistentClient(str(directory), settings)
        return chromadb.EphemeralClient(settings)


def _connected(chromadb: Any, settings: Any, url: str) -> Any:
    import httpx

    host, port, ssl = _address(url)
    # Chroma's client waits for ever: it is asked for nothing before the server has shown that it answers.
    httpx.get(f"http{'s' if ssl else ''}://{host}:{port}/api/v2/heartbeat", timeout=_CONNECT_SECONDS).raise_for_status()
    client = chromadb.HttpClient(host, port, ssl, settings=settings)
    for session in _sessions(client):
        session.timeout = httpx.Timeout(_ANSWER_SECONDS, connect=_CONNECT_SECONDS)
    return client


def close(client: Any) -> None:
    sessions = _sessions(client)
    client.close()
    for session in sessions:  # which Chroma leaves open
        session.close()


def _sessions(client: Any) -> list[Any]:
    """The connections of a server's client, of which it has two; no setting of Chroma's leads there."""
    servers = (getattr(owner, "_server", None) for owner in (client, getattr(client, "_admin_client", None)))
    return [session for session in (getattr(server, "_session", None) for server in servers) if session is not None]


def _address(url: str) -> tuple[str, int, bool]:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        parts, port = urlsplit(""), None
    plain = parts.username is None and parts.path in ("", "/") and not parts.query and not parts.fragment
    if parts.scheme not in ("http", "https") or not parts.hostname or not plain:
        raise InvalidRequest("'url' must be that of a Chroma server, such as http://localhost:8000", param="url")
    ssl = parts.scheme == "https"
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return host, port or (443 if ssl else 8000), ssl


def made_anew(exc: Exception) -> bool:
    """Whether it may come of a collection that was dropped, and perhaps made anew, since it was opened."""
    from chromadb.errors import NotFoundError

    # The dimension that an opened collection tells may be the former one's.
    return isinstance(exc, NotFoundError) or (isinstance(exc, InvalidRequest) and exc.code == "wrong_dimension")


@contextmanager
def translated(url: str | None) -> Iterator[None]:
    """What Chroma and the connection to it raise, by type, as errors of ours."""
    import httpx
    from chromadb.errors import ChromaError, InvalidArgumentError, NotFoundError, QuotaError, RateLimitError

    try:
        yield
    except SageError:
        raise
    except (httpx.TransportError, httpx.HTTPStatusError) as exc:
        raise Unavailable(
            f"the Chroma server at {url} does not answer ({type(exc).__name__}); see that it runs, then try again"
        ) from exc
    except NotFoundError as exc:
        raise NotFound("Chroma has no such collection", param="collection", code=GONE) from exc
    except InvalidArgumentError as exc:
        raise InvalidRequest(f"Chroma refused this: {exc}") from exc
    except (RateLimitError, QuotaError) as exc:
        raise RateLimited(f"Chroma: {exc}") from exc
    except ChromaError as exc:
        raise UpstreamFailed(f"Chroma failed: {exc}") from exc
    except Exception as exc:
        if type(exc) is not Exception and not isinstance(exc, ValueError | RuntimeError | OSError):
            raise
        raise UpstreamFailed(f"Chroma failed: {exc}") from exc  # what its server says in other words is a bare one
