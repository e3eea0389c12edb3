"""A client of a running gateway, for the command line and for programs; says in one line what went wrong."""

from __future__ import annotations

import http.client
import json
import os
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from sage.errors import CallFailed, SageError
from sage.middleware.settings.reading import CLIENT_SECTIONS, find_config, load_settings
from sage.middleware.settings.settings import LOOPBACK, Settings

_TIMEOUT = 660.0  # above the gateway's own limit for one call
_JSON = "application/json"
Body = Mapping[str, Any] | bytes | Iterable[bytes]
"""JSON, as a mapping or as bytes already, or a stream of parts."""
Query = Mapping[str, str | int]


class NoGateway(CallFailed):
    """Nothing answers at the address."""


class Client:
    """A client of the gateway at ``url``; ``credential`` is a token, an API key or ``None``."""

    def __init__(self, url: str, credential: str | None, hint: str = "") -> None:
        """``hint`` says what to do when the gateway asks for a credential."""
        try:
            good = urlsplit(url).scheme in ("http", "https") and bool(urlsplit(url).hostname)
        except ValueError:
            good = False
        if not good:
            raise CallFailed(f"SAGE_URL '{url}' is not an address such as http://127.0.0.1:8000")
        if credential is not None and not (credential.isascii() and credential.isprintable()):
            raise CallFailed("SAGE_API_KEY holds a line end or a character that no key has; copy it again")
        self._url = url.rstrip("/").removesuffix("/v1")
        self._credential = credential
        self._hint = hint

    @property
    def url(self) -> str:
        return self._url

    def get(self, path: str, **query: str | int) -> dict[str, Any]:
        return self._json(self._open("GET", path, None, query))

    def text(self, path: str, **query: str | int) -> str:
        """An answer that is no JSON."""
        with self._open("GET", path, None, query) as answer:
            try:
                return answer.read().decode("utf-8", "replace")
            except (OSError, http.client.HTTPException) as exc:
                raise CallFailed(f"the answer of {self._url} broke off: {exc}") from exc

    def post(self, path: str, body: Mapping[str, Any] | bytes | None = None, **query: str) -> dict[str, Any]:
        """``body`` may be JSON already, as bytes."""
        return self._json(self._open("POST", path, body or {}, query=query))

    def send(
        self, path: str, body: Body, *, query: Query | None = None, headers: Mapping[str, str] | None = None
    ) -> dict[str, Any]:
        """As :meth:`post`, with headers, which may say that ``body`` is something else than JSON."""
        return self._json(self._open("POST", path, body, query, headers))

    def put(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        return self._json(self._open("PUT", path, body))

    def put_stream(self, path: str, parts: Iterable[bytes]) -> dict[str, Any]:
        return self._json(self._open("PUT", path, parts))

    def download(self, path: str) -> Iterator[bytes]:
        """The bytes of the answer as they come; raises when it breaks off."""
        with self._open("GET", path, None) as answer:
            try:
                while part := answer.read(2**18):
                    yield part
            except (OSError, http.client.HTTPException) as exc:
                raise CallFailed(f"the answer of {self._url} broke off: {exc}") from exc

    def follow(self, path: str, silence: float) -> Iterator[tuple[str, Any]]:
        """The name and the JSON of each event of a stream, until the gateway closes it; a comment, which says that the
        gateway lives, has no name. Raises :class:`CallFailed` when nothing comes for ``silence`` seconds."""
        with self._open("GET", path, None, timeout=silence) as answer:
            name = "message"
            try:
                for line in answer:
                    field, _, value = line.decode("utf-8", "replace").rstrip("\r\n").partition(":")
                    if field == "event":
                        name = value.strip()
                    elif field == "data":
                        yield name, json.loads(value)
                        name = "message"
                    elif value:
                        yield "", None
            except (OSError, ValueError, http.client.HTTPException) as exc:
                raise CallFailed(f"the answer of {self._url} broke off: {exc}") from exc

    def delete(self, path: str) -> None:
        self._open("DELETE", path, None).close()

    def events(self, path: str, body: Mapping[str, Any]) -> Iterator[Any]:
        """The JSON of each event of a stream; raises when the stream breaks or ends without ``[DONE]``."""
        with self._open("POST", path, body) as answer:
            try:
                for line in answer:
                    if not line.startswith(b"data:"):
                        continue
                    data = line[5:].strip()
                    if data == b"[DONE]":
                        return
                    event = json.loads(data)
                    if isinstance(event, dict) and event.get("error"):
                        raise CallFailed(_error_message(event["error"]))
                    yield event
            except (OSError, ValueError, http.client.HTTPException) as exc:
                raise CallFailed(f"the answer of {self._url} broke off: {exc}") from exc
        raise CallFailed(f"the answer of {self._url} broke off")

    def _open(
        self,
        method: str,
        path: str,
        body: Body | None,
        query: Query | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float = _TIMEOUT,
    ) -> http.client.HTTPResponse:
        data = json.dumps(body).encode() if isinstance(body, Mapping) else body
        address = f"{self._url}{quote(path)}{'?' if query else ''}{urlencode(query or {})}"
        request = urllib.request.Request(address, data, method=method)  # noqa: S310
        streamed = data is not None and not isinstance(data, bytes)
        request.add_header("Content-Type", "application/octet-stream" if streamed else _JSON)
        for name, value in (headers or {}).items():
            request.add_header(name, value)
        if self._credential:
            request.add_header("Authorization", f"Bearer {self._credential}")
        opener = urllib.request.build_opener(_NoRedirect)
        try:
            answer = opener.open(request, timeout=timeout)
        except urllib.error.HTTPError as exc:
            with exc:
                raise _refusal(exc, self._hint if exc.code == 401 else "") from None
        except TimeoutError:
            raise CallFailed(f"{self._url} took the request and did not answer within {timeout:.0f} s") from None
        except (OSError, http.client.HTTPException) as exc:
            reason = getattr(exc, "reason", exc)
            raise NoGateway(
                f"no gateway answers at {self._url} ({reason}); start one with 'sage serve', or set SAGE_URL"
            ) from None
        assert isinstance(answer, http.client.HTTPResponse)
        return answer

    def _json(self, answer: http.client.HTTPResponse) -> dict[str, Any]:
        with answer:
            try:
                value = json.loads(answer.read())
            except (ValueError, OSError, http.client.HTTPException):
                value = None
        if not isinstance(value, dict):
            raise CallFailed(f"{self._url} did not answer as a SAGE gateway does; check SAGE_URL")
        return value


def connect() -> Client:
    """A client of the gateway at ``SAGE_URL`` with the key ``SAGE_API_KEY``.

    Without ``SAGE_URL`` it is the gateway of this machine's configuration; without a key, a gateway on this machine
    gets a token of the installation's only user. The configuration is read only for these two.
    """
    given, key = os.environ.get("SAGE_URL"), os.environ.get("SAGE_API_KEY", "").strip() or None
    if given and (key is not None or not is_loopback(given)):
        return Client(given, key)
    settings = load_settings(find_config(None, os.environ), os.environ, sections=CLIENT_SECTIONS)
    host = settings.api.host if settings.api.host not in ("0.0.0.0", "::") else "127.0.0.1"  # noqa: S104
    default = f"http://[{host}]:{settings.api.port}" if ":" in host else f"http://{host}:{settings.api.port}"
    url, hint = given or default, ""
    if key is None and settings.auth.enabled and is_loopback(url):
        key, hint = _own_token(settings)
    return Client(url, key, hint)


def set_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that have a value: without ``None``, and without groups in which nothing is set."""
    return {name: value for name, value in options.items() if value is not None and value != {}}


def is_loopback(url: str) -> bool:
    """Whether the address is of this machine alone."""
    try:
        return urlsplit(url).hostname in LOOPBACK
    except ValueError:
        return False


def _own_token(settings: Settings) -> tuple[str | None, str]:
    """A token of this installation's only user; or ``None`` and what to do if the gateway asks for one."""
    if settings.database is None and not (settings.data_dir / "sage.db").exists():
        hint = "this installation has no users: sage user add NAME --role admin"
        return None, hint
    from sage.middleware.auth.accounts import Accounts

    accounts = Accounts(settings.data_dir, settings.auth, url=settings.database)
    try:
        return accounts.sessions.issue(None), ""
    except SageError as exc:
        hint = f"{exc.message}, as in SAGE_API_KEY=$(sage token --user NAME)"
        return None, hint
    finally:
        accounts.close()


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect could carry the credential elsewhere."""

    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        return None


def _refusal(answer: urllib.error.HTTPError, hint: str) -> CallFailed:
    try:
        error = json.loads(answer.read())["error"]
        message, code = _error_message(error), error.get("code") if isinstance(error, dict) else None
    except (ValueError, KeyError, TypeError, OSError, http.client.HTTPException):
        message = f"the gateway answered {answer.code}"
        code = None
    wait = answer.headers.get("Retry-After", "")
    retry_after = float(wait) if wait.isdecimal() else None
    full = f"{message}; {hint}" if hint else message
    return CallFailed(full, answer_status=answer.code, code=code, retry_after=retry_after)


def _error_message(error: Any) -> str:
    """An error's message, on one line."""
    message = error.get("message") if isinstance(error, dict) else error
    return " ".join(str(message).split())
