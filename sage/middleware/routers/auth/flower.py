"""``POST /auth/flower``: a browser that has logged in to the console sees Flower without logging in once more."""

from __future__ import annotations

from fastapi import Request
from fastapi.responses import Response

from sage.middleware.auth.principal import Scope
from sage.middleware.routers.auth.session_cookie import require_own_page
from sage.middleware.routers.flower.browser_session import BrowserSessions, set_cookie
from sage.middleware.routers.http.browser_origin import is_loopback
from sage.middleware.routers.http.deps import Caller
from sage.middleware.routers.http.guard import guarded_router, requires

router = guarded_router("Accounts")


@router.post("/auth/flower", name="auth_flower", status_code=204, response_class=Response)
@requires(Scope.ADMIN)
async def open_session(request: Request, caller: Caller) -> Response:
    """Gives the browser the cookie of `/flower`. It is of the login session that the access token is of, and ends with
    it; an API key has none."""
    require_own_page(request)
    sessions = request.app.state.flower_sessions
    assert isinstance(sessions, BrowserSessions)
    response = Response(status_code=204)
    name, value = set_cookie(sessions.open_for(caller), secure=not is_loopback(request.scope))
    response.headers.append(name.decode(), value.decode())
    return response
