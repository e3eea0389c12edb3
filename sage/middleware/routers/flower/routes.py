"""``/flower``: Flower's pages for callers with the scope ``admin``, and the login of their browsers.

A program sends its key or token. A browser logs in at ``/flower/login`` and has a cookie, which is good here and
nowhere else. Under a cookie, and without auth, what may change something must come from a page of ours.
"""

from __future__ import annotations

from urllib.parse import parse_qs, quote, urlencode

from starlette.routing import Route

from sage.errors import AuthenticationFailed, InvalidRequest, PermissionDenied, RateLimited, SageError
from sage.middleware.auth.addresses import network_of
from sage.middleware.auth.authenticator import Authenticator
from sage.middleware.auth.principal import LOCAL, Principal
from sage.middleware.auth.principal import Scope as Permission
from sage.middleware.providers.transport import Transport
from sage.middleware.routers.flower.browser_session import BrowserSession, BrowserSessions, set_cookie, take_cookie
from sage.middleware.routers.flower.origins import HOME, safe_target
from sage.middleware.routers.flower.pages import denied_page, language_of, login_page, page_headers, unavailable_page
from sage.middleware.routers.flower.proxy import FlowerProxy, FlowerUnavailable
from sage.middleware.routers.http.asgi import Headers, Receive, Scope, Send, error_headers, note, read_body
from sage.middleware.routers.http.bodies import SMALL_BODY, LargeBody, too_large
from sage.middleware.routers.http.browser_origin import header, is_loopback, is_same_origin
from sage.middleware.routers.http.guard import credential, identify
from sage.middleware.settings.settings import Settings

_LOGIN_BODY = 16 * 2**10
_METHODS = ("GET", "POST")


def flower_routes(
    transport: Transport, settings: Settings, sessions: BrowserSessions | None, authenticator: Authenticator | None
) -> list[Route]:
    """The routes of ``/flower``. Without ``sessions`` there is no login: everyone on this machine sees Flower."""
    proxy = FlowerProxy(transport, settings.queue.flower, settings.data_dir)
    pages = FlowerPages(proxy, sessions, authenticator)
    return [
        Route("/flower/login", FlowerLogin(sessions), methods=_METHODS, name="flower_login"),
        Route("/flower/logout", FlowerLogout(sessions), methods=_METHODS, name="flower_logout"),
        Route("/flower", pages, methods=_METHODS, name="flower_home"),
        Route("/flower/{path:path}", pages, methods=_METHODS, name="flower"),
    ]


class FlowerPages:
    """Flower's own pages. ``sessions=None`` means a gateway without auth."""

    def __init__(
        self, proxy: FlowerProxy, sessions: BrowserSessions | None, authenticator: Authenticator | None
    ) -> None:
        self._proxy = proxy
        self._sessions = sessions
        self._authenticator = authenticator

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        _limit(scope, receive, SMALL_BODY)
        if scope["path"] == "/flower":
            await _redirect(send, HOME)
            return
        session = await self._session(scope)
        principal = await self._principal(scope, session)
        if principal is None:
            await _redirect(send, f"/flower/login?{urlencode({'next': _target(scope)})}")
            return
        scope["state"]["principal"] = principal
        if session is not None and Permission.ADMIN not in principal.scopes and _wants_page(scope):
            await _send_page(send, 403, denied_page(_language(scope)))
            return
        if self._sessions is not None:
            principal.require(Permission.ADMIN)
        if credential(scope) is None:
            _require_own_page(scope)
        await self._show(scope, receive, send, session)

    async def _session(self, scope: Scope) -> BrowserSession | None:
        """The browser's session; ``None`` also for who sends a key or a token, which goes before a cookie."""
        if self._sessions is None or credential(scope) is not None:
            return None
        return await self._sessions.find(scope)

    async def _principal(self, scope: Scope, session: BrowserSession | None) -> Principal | None:
        """Who asks; ``None`` means a browser that has to log in first. Raises :class:`AuthenticationFailed`."""
        if self._sessions is None:
            return LOCAL
        if session is not None:
            return session.principal
        if credential(scope) is None:
            if scope["method"] == "GET" and _wants_page(scope):
                return None
            raise AuthenticationFailed(
                "no credential: send 'Authorization: Bearer <API key or access token>', or log in at /flower/login",
                code="missing_credential",
            )
        return await identify(scope, self._authenticator)

    async def _show(self, scope: Scope, receive: Receive, send: Send, session: BrowserSession | None) -> None:
        def more() -> Headers:
            value = self._sessions.renewed(session) if self._sessions is not None and session is not None else None
            return [] if value is None else [set_cookie(value, secure=not is_loopback(scope))]

        try:
            await self._proxy(scope, receive, send, more)
        except FlowerUnavailable as error:
            if not _wants_page(scope):
                raise
            note(scope, error=error.code)
            page = unavailable_page(_language(scope), refused=error.refused)
            await _send_page(send, 503, page, [(b"retry-after", b"5")])


class FlowerLogin:
    """The page with the form, and what it sends."""

    def __init__(self, sessions: BrowserSessions | None) -> None:
        self._sessions = sessions

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._sessions is None:
            await _redirect(send, HOME)
        elif scope["method"] == "POST":
            _limit(scope, receive, _LOGIN_BODY)
            await self._log_in(self._sessions, scope, await read_body(receive), send)
        else:
            target = safe_target(_form(scope["query_string"]).get("next", HOME))
            if await self._sessions.find(scope) is not None:
                await _redirect(send, target)
            else:
                await _send_page(send, 200, login_page(_language(scope), target))

    async def _log_in(self, sessions: BrowserSessions, scope: Scope, body: bytes, send: Send) -> None:
        if header(scope, b"content-type").partition(";")[0].strip().lower() != "application/x-www-form-urlencoded":
            raise InvalidRequest("the form of /flower/login is application/x-www-form-urlencoded", code="content_type")
        form = _form(body)
        user, target = form.get("username", ""), safe_target(form.get("next", HOME))
        secure = not is_loopback(scope)
        try:
            if is_same_origin(scope) is False:
                raise PermissionDenied("the form was sent from another site", code="other_site")
            if secure and header(scope, b"origin").lower().startswith("http://"):
                raise InvalidRequest("the browser would not keep the cookie without https", code="needs_tls")
            address = network_of(scope["client"][0]) if scope.get("client") else ""
            value = await sessions.open(user, form.get("password", ""), address)
        except (AuthenticationFailed, RateLimited, PermissionDenied, InvalidRequest) as error:
            note(scope, error=error.code)
            page = login_page(_language(scope), target, error.code, user[:200])
            await _send_page(send, error.status, page, _error_headers(error))
            return
        await _redirect(send, target, [set_cookie(value, secure=secure)])


class FlowerLogout:
    """Ends the session of the browser that asks."""

    def __init__(self, sessions: BrowserSessions | None) -> None:
        self._sessions = sessions

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._sessions is None:
            await _redirect(send, HOME)
            return
        _limit(scope, receive, _LOGIN_BODY)
        session = await self._sessions.find(scope)
        if session is not None:
            if is_same_origin(scope) is False and scope["method"] != "GET":
                raise _cross_site()
            await self._sessions.end(session.principal)
        page = login_page(_language(scope), HOME, "logged_out")
        await _send_page(send, 200, page, [take_cookie(secure=not is_loopback(scope))])


def _require_own_page(scope: Scope) -> None:
    """Raises :class:`PermissionDenied` for what may change something, unless a page of ours sent it."""
    if scope["method"] != "GET" and is_same_origin(scope) is not True:
        raise _cross_site()


def _cross_site() -> PermissionDenied:
    return PermissionDenied(
        "this request does not come from a page of the gateway (Origin, Sec-Fetch-Site); programs send "
        "'Authorization: Bearer <API key or access token>'",
        code="cross_site",
    )


def _target(scope: Scope) -> str:
    query = scope["query_string"].decode("latin-1")
    return safe_target(quote(scope["path"], safe="/@:+,=~") + (f"?{query}" if query else ""))


def _form(text: bytes) -> dict[str, str]:
    """The fields of a form, the last of each name."""
    try:
        fields = parse_qs(text.decode("ascii"), keep_blank_values=True, max_num_fields=20, errors="strict")
    except ValueError:
        raise InvalidRequest("the form cannot be read", code="invalid_form") from None
    return {name: values[-1] for name, values in fields.items()}


def _language(scope: Scope) -> str:
    return language_of(header(scope, b"accept-language"))


def _wants_page(scope: Scope) -> bool:
    return "text/html" in header(scope, b"accept")


def _limit(scope: Scope, receive: Receive, most: int) -> None:
    """Limits the body of a request to ``most`` bytes."""
    if int(header(scope, b"content-length") or 0) > most:
        raise too_large(most)
    if isinstance(receive, LargeBody):
        receive.narrow(most)


def _error_headers(error: SageError) -> Headers:
    names = (b"retry-after", b"www-authenticate")
    return [pair for pair in error_headers(error, 0) if pair[0] in names]


async def _send_page(send: Send, status: int, page: bytes, more: Headers | None = None) -> None:
    headers = [*page_headers(page), *(more or ())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": page})


async def _redirect(send: Send, target: str, more: Headers | None = None) -> None:
    headers = [(b"location", target.encode("ascii")), (b"content-length", b"0"), (b"cache-control", b"no-store")]
    await send({"type": "http.response.start", "status": 303, "headers": [*headers, *(more or ())]})
    await send({"type": "http.response.body", "body": b""})
