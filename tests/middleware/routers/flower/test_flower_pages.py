"""``/flower`` before a scripted Flower: who sees it, what passes each way, how a browser's session lives."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import http.client
import re
import secrets
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests
from running_gateway import PASSWORD, Running
from typer.testing import CliRunner
from upstream import Upstream, raw

from sage.errors import ConfigError
from sage.middleware.auth.accounts import Accounts
from sage.middleware.auth.authenticator import Authenticator
from sage.middleware.auth.passwords import HashCost
from sage.middleware.auth.principal import Scope
from sage.middleware.cli.main import app
from sage.middleware.routers.flower.browser_session import IDLE, LONGEST, BrowserSessions

pytestmark = pytest.mark.slow  # nearly each test starts a gateway, or has several threads

FLOWERS_PASSWORD = secrets.token_urlsafe(24)
PAGE = {"Accept": "text/html,application/xhtml+xml"}
COOKIE = re.compile(r"sage-flower=([\w-]+); Path=/flower; Max-Age=1800; HttpOnly; SameSite=Strict(; Secure)?")


def sections(up: Upstream) -> dict[str, Any]:
    """The gateway's Flower is the scripted server."""
    return {"queue": {"flower": {"url": up.url.removesuffix("/v1"), "password": FLOWERS_PASSWORD}}}


@pytest.fixture(autouse=True)
def fresh_throttle(running: Running) -> Iterator[None]:
    """No test fails since another one mistyped passwords."""
    yield
    running.edge.app.state.accounts.throttle.__init__()


@pytest.fixture
def session() -> Iterator[requests.Session]:
    with requests.Session() as session:
        session.trust_env = False
        yield session


def log_in(running: Running, user: str = "root", password: str = PASSWORD, **fields: Any) -> requests.Response:
    """Sends the form as a page of the gateway does."""
    headers = {**PAGE, "Origin": running.url, **fields.pop("headers", {})}
    form = {"username": user, "password": password, **fields}
    return requests.post(f"{running.url}/flower/login", form, headers=headers, timeout=30, allow_redirects=False)


def cookie_of(answer: requests.Response) -> str:
    match = COOKIE.fullmatch(answer.headers["set-cookie"])
    assert match is not None, answer.headers["set-cookie"]
    return match[1]


def with_cookie(value: str, **more: str) -> dict[str, str]:
    return {**PAGE, "Cookie": f"sage-flower={value}", **more}


def get(running: Running, path: str, headers: dict[str, str]) -> requests.Response:
    return requests.get(running.url + path, headers=headers, timeout=30, allow_redirects=False)


def bare(running: Running, method: str, target: str, headers: dict[str, str], body: bytes = b"") -> tuple[int, bytes]:
    """A request whose target goes out as it is; status and body of the answer."""
    connection = http.client.HTTPConnection(urlsplit(running.url).netloc, timeout=30)
    try:
        connection.putrequest(method, target, skip_host="host" in {name.lower() for name in headers})
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            connection.putheader(name, value)
        connection.endheaders(body)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def test_a_key_with_the_scope_sees_flower(running: Running, up: Upstream) -> None:
    sent = {
        "content-type": "text/html; charset=UTF-8",
        "etag": '"e1"',
        "set-cookie": "_xsrf=1; Path=/",
        "server": "TornadoServer",
        "access-control-allow-origin": "*",
        "x-frame-options": "ALLOWALL",
    }
    up.reply(body=b"<h1>workers</h1>", headers=sent)
    headers = {"Cookie": "other=secret; sage-flower=x", "X-Forwarded-For": "1.2.3.4", "Accept-Language": "zh"}
    answer = running.get("/flower/workers?refresh=1&name=a%20b", headers={**headers, "If-None-Match": '"e0"'})
    assert (answer.status_code, answer.content) == (200, b"<h1>workers</h1>")
    assert answer.headers["content-type"] == "text/html; charset=UTF-8"
    assert answer.headers["etag"] == '"e1"'
    assert answer.headers["x-frame-options"] == "DENY"
    assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
    assert not {"set-cookie", "access-control-allow-origin", "server"} & {name.lower() for name in answer.headers}

    [asked] = up.requests
    assert (asked.method, asked.path) == ("GET", "/flower/workers?refresh=1&name=a%20b")
    user, password = requests.auth._basic_auth_str("sage", FLOWERS_PASSWORD).split()
    assert asked.headers["authorization"] == f"{user} {password}"
    assert asked.headers["host"] == urlsplit(up.url).netloc
    assert asked.headers["if-none-match"] == '"e0"'
    assert set(asked.headers) <= {
        *("authorization", "host", "accept", "accept-language", "accept-encoding", "if-none-match", "user-agent"),
    }
    assert running.key not in str(asked.headers)


def test_who_may_not_see_flower_does_not(running: Running, up: Upstream) -> None:
    up.reply(body=b"workers")
    assert get(running, "/flower/", {}).json()["error"]["code"] == "missing_credential"
    to_login = get(running, "/flower/tasks?a=1", PAGE)
    assert (to_login.status_code, to_login.headers["location"]) == (303, "/flower/login?next=%2Fflower%2Ftasks%3Fa%3D1")
    rest = [scope for scope in Scope if scope is not Scope.ADMIN]
    refused = running.get("/flower/", key=running.new_key(scopes=rest))
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "missing_scope")
    wrong = running.get("/flower/", key="sk-sage-nonsense", headers=PAGE)
    assert (wrong.status_code, wrong.json()["error"]["code"]) == (401, "invalid_api_key")
    assert running.request("POST", "/flower/api/worker/shutdown/w", key=running.new_key(scopes=rest)).status_code == 403
    assert up.requests == []


def test_a_browser_logs_in_and_out(running: Running, up: Upstream) -> None:
    up.reply(body=b"workers")
    form = get(running, "/flower/login?next=/flower/tasks", PAGE)
    assert form.status_code == 200
    assert '<form method="post" action="/flower/login">' in form.text
    assert 'name="next" value="/flower/tasks"' in form.text
    assert "<script" not in form.text
    assert "//" not in form.text.replace(running.url, "")
    assert form.headers["cache-control"] == "no-store"
    assert "default-src 'none'" in form.headers["content-security-policy"]

    answer = log_in(running, next="/flower/tasks")
    assert (answer.status_code, answer.headers["location"]) == (303, "/flower/tasks")
    cookie = cookie_of(answer)
    assert COOKIE.fullmatch(answer.headers["set-cookie"])[2] is None  # on this machine there is no TLS
    seen = get(running, "/flower/tasks", with_cookie(cookie))
    assert (seen.status_code, seen.content) == (200, b"workers")
    assert "cookie" not in up.requests[-1].headers
    again = get(running, "/flower/login?next=/flower/broker", with_cookie(cookie))
    assert (again.status_code, again.headers["location"]) == (303, "/flower/broker")

    out = get(running, "/flower/logout", with_cookie(cookie))
    assert out.status_code == 200
    assert out.headers["set-cookie"].startswith("sage-flower=; Path=/flower; Max-Age=0;")
    assert "You have logged out." in out.text
    assert get(running, "/flower/tasks", with_cookie(cookie)).headers["location"].startswith("/flower/login?")


def test_who_has_logged_in_to_the_console_needs_no_second_login(running: Running, up: Upstream) -> None:
    up.reply(body=b"workers")
    form = {"username": "root", "password": PASSWORD}
    token = requests.post(f"{running.url}/auth/token", form, timeout=30).json()["access_token"]
    bearer = {"Authorization": f"Bearer {token}"}
    opened = requests.post(f"{running.url}/auth/flower", headers=bearer, timeout=30)
    assert opened.status_code == 204
    cookie = cookie_of(opened)
    assert get(running, "/flower/", with_cookie(cookie)).content == b"workers"
    assert requests.post(f"{running.url}/auth/logout", headers=bearer, timeout=30).status_code in (200, 204)
    assert get(running, "/flower/", with_cookie(cookie)).status_code == 303

    by_key = requests.post(f"{running.url}/auth/flower", headers=running.headers(), timeout=30)
    assert (by_key.status_code, by_key.json()["error"]["code"]) == (409, "no_session")
    elsewhere = {**bearer, "Origin": "https://evil.example"}
    assert requests.post(f"{running.url}/auth/flower", headers=elsewhere, timeout=30).status_code in (401, 403)
    assert requests.post(f"{running.url}/auth/flower", timeout=30).status_code == 401


def test_a_stolen_cookie_opens_nothing_else(running: Running, up: Upstream) -> None:
    cookie = cookie_of(log_in(running))
    for headers in (with_cookie(cookie), {"Authorization": f"Bearer {cookie}"}):
        assert get(running, "/auth/me", headers).status_code == 401
        assert get(running, "/models", headers).status_code == 401
    assert "eyJ" not in cookie  # the token inside cannot be read
    for spoiled in (cookie[:-4] + "AAAA", cookie[8:], "A" * 5000, "=", "\xff", '"' + cookie + '"'):
        answer = get(running, "/flower/", {**PAGE, "Cookie": f"sage-flower={spoiled}".encode("latin-1")})
        assert answer.status_code == 303, spoiled
    assert get(running, "/flower/", {**PAGE, "Cookie": f"Sage-Flower={cookie}"}).status_code == 303
    up.reply(body=b"workers")
    several = f"sage-flower=tossed; a=b; sage-flower={cookie}"  # the first from another site of the domain
    assert get(running, "/flower/", {**PAGE, "Cookie": several}).content == b"workers"


def test_a_session_dies_with_its_rights(running: Running, up: Upstream) -> None:
    up.reply(body=b"workers")
    accounts = running.accounts
    accounts.users.add("ops", PASSWORD, role="admin")
    cookie = cookie_of(log_in(running, "ops"))
    assert get(running, "/flower/", with_cookie(cookie)).content == b"workers"
    server = running.edge.app.state.accounts
    server.users.change("ops", role="user")
    refused = get(running, "/flower/", with_cookie(cookie))
    assert refused.status_code == 403
    assert "not an admin" in refused.text
    assert 'action="/flower/logout"' in refused.text
    assert get(running, "/flower/api/workers", {"Cookie": f"sage-flower={cookie}"}).json()["error"]["code"] == (
        "missing_scope"
    )
    server.users.change("ops", role="admin")
    assert get(running, "/flower/", with_cookie(cookie)).status_code == 200
    server.users.change("ops", disabled=True)
    assert get(running, "/flower/", with_cookie(cookie)).status_code == 303
    assert log_in(running, "ops").status_code == 401


def test_another_user_cannot_log_in(running: Running, up: Upstream) -> None:
    running.accounts.users.add("guest", PASSWORD)
    answer = log_in(running, "guest", headers={"Accept-Language": "zh-CN,zh;q=0.9,en;q=0.8"})
    assert answer.status_code == 403
    assert "set-cookie" not in answer.headers
    assert "该用户不是管理员" in answer.text
    assert 'lang="zh"' in answer.text


def test_passwords_are_throttled(running: Running, up: Upstream) -> None:
    for _ in range(5):
        wrong = log_in(running, "<b>'\"", "wrong")
        assert (wrong.status_code, "set-cookie" in wrong.headers) == (401, False)
        assert "Wrong user name or password." in wrong.text
        assert 'value="&lt;b&gt;&#x27;&quot;"' in wrong.text
    stopped = log_in(running, "<b>'\"", "wrong")
    assert stopped.status_code == 429
    assert int(stopped.headers["retry-after"]) >= 1
    assert "Too many logins" in stopped.text


@pytest.mark.parametrize(
    ("target", "leads_to"),
    [
        ("/flower/task/8f-1?x=//a", "/flower/task/8f-1?x=//a"),
        ("/flower", "/flower"),
        ("https://evil.example/flower/", "/flower/"),
        ("//evil.example/flower/", "/flower/"),
        ("/\\evil.example", "/flower/"),
        ("/flower/\\..\\docs", "/flower/"),
        ("/flowers", "/flower/"),
        ("/flower.evil.example/", "/flower/"),
        ("/flower@evil.example/", "/flower/"),
        ("/flower/../docs", "/flower/"),
        ("/flower/%2e%2e/docs", "/flower/"),
        ("/flower/%2F%2Fevil.example", "/flower/"),
        ("/flower//evil.example", "/flower/"),
        ("/flower/logout", "/flower/"),
        ("/flower/a\r\nset-cookie: x=1", "/flower/"),
        ("/flower/<script>", "/flower/"),
        ("javascript:alert(1)", "/flower/"),
        ("", "/flower/"),
        ("/flower/" + "a" * 3000, "/flower/"),
    ],
)
def test_a_login_leads_to_flower_only(running: Running, target: str, leads_to: str) -> None:
    answer = log_in(running, next=target)
    assert (answer.status_code, answer.headers["location"]) == (303, leads_to)


def test_other_sites_change_nothing(running: Running, up: Upstream) -> None:
    up.reply({"message": "done"})
    cookie = {"Cookie": f"sage-flower={cookie_of(log_in(running))}"}
    url = f"{running.url}/flower/api/worker/shutdown/celery@host"

    def post(headers: dict[str, str]) -> tuple[int, Any]:
        answer = requests.post(url, "a=1", headers=headers, timeout=30)
        return answer.status_code, answer.json().get("error", {}).get("code")

    foreign: list[dict[str, str]] = [
        {},
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},
        {"Origin": ""},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site", "Origin": running.url},
        {"Sec-Fetch-Site": "none"},
    ]
    for headers in foreign:
        assert post({**cookie, **headers}) == (403, "cross_site"), headers
    assert up.requests == []
    for headers in ({"Origin": running.url}, {"Sec-Fetch-Site": "same-origin"}):
        assert post({**cookie, **headers}) == (200, None)
    assert post(running.headers()) == (200, None)  # no page can send a key that it does not know
    assert [(one.method, one.path, one.raw) for one in up.requests] == [
        ("POST", "/flower/api/worker/shutdown/celery@host", b"a=1")
    ] * 3
    assert not {"origin", "sec-fetch-site", "cookie"} & set(up.requests[-1].headers)


def test_other_sites_log_nobody_in_or_out(running: Running, up: Upstream) -> None:
    for headers in ({"Origin": "https://evil.example"}, {"Sec-Fetch-Site": "cross-site"}, {"Origin": "null"}):
        refused = log_in(running, headers=headers)
        assert (refused.status_code, "set-cookie" in refused.headers) == (403, False)
        assert "sent from another site" in refused.text
    cookie = {"Cookie": f"sage-flower={cookie_of(log_in(running))}"}
    evil = {**cookie, "Origin": "https://evil.example"}
    assert requests.post(f"{running.url}/flower/logout", headers=evil, timeout=30).status_code == 403
    up.reply(body=b"workers")
    assert get(running, "/flower/", {**PAGE, **cookie}).content == b"workers"


def test_beyond_this_machine_the_cookie_needs_tls(running: Running, up: Upstream) -> None:
    over_tls = log_in(running, headers={"Host": "sage.example", "Origin": "https://sage.example"})
    assert over_tls.headers["set-cookie"].endswith("; SameSite=Strict; Secure")
    open_http = log_in(running, headers={"Host": "sage.example:8000", "Origin": "http://sage.example:8000"})
    assert (open_http.status_code, "set-cookie" in open_http.headers) == (400, False)
    assert "ssh -L" in open_http.text
    for host in ("localhost:8000", "[::1]:8000"):
        assert COOKIE.fullmatch(
            log_in(running, headers={"Host": host, "Origin": f"http://{host}"}).headers["set-cookie"]
        )


@pytest.mark.parametrize(
    "target",
    [
        "/flower/../auth/users",
        "/flower/%2e%2e/auth/users",
        "/flower/..%2fauth/users",
        "/flower/a/./b",
        "/flower/%5c..%5ca",
    ],
)
def test_no_path_leads_out_of_flower(running: Running, up: Upstream, target: str) -> None:
    up.reply(body=b"workers")
    status, body = bare(running, "GET", target, running.headers())
    assert (status, b"not_found" in body) == (404, True)
    assert up.requests == []


def test_paths_and_headers_reach_flower_as_one_request(running: Running, up: Upstream) -> None:
    up.reply(body=b"workers")
    target = '/flower/worker/a%0d%0ax:%20y%2Fb@c?q=%0d%0aHost:%20evil&r="<>'
    assert bare(running, "GET", target, running.headers())[0] == 404  # no path of a route has a line end
    target = "/flower/worker/a%20%3F%23b@h%2Fc?q=%0d%0aHost:%20evil&r=%"
    assert bare(running, "GET", target, {**running.headers(), "Host": "127.0.0.1", "Accept": "a/b"}) == (
        200,
        b"workers",
    )
    [asked] = up.requests
    assert asked.path == "/flower/worker/a%20%3F%23b@h/c?q=%0D%0AHost:%20evil&r=%25"
    assert asked.headers["host"] == urlsplit(up.url).netloc
    smuggled = {"Transfer_Encoding": "chunked", "Content_Length": "5", "X-Sage": "1", "Te": "trailers"}
    assert bare(running, "POST", "/flower/api/x", {**running.headers(), **smuggled}, b"abc") == (200, b"workers")
    assert up.requests[-1].raw == b"abc"
    assert not {"transfer_encoding", "content_length", "x-sage", "te", "connection"} & (
        set(up.requests[-1].headers) - {"connection"}
    )
    twice = {**running.headers(), "Transfer-Encoding": "chunked"}
    assert bare(running, "POST", "/flower/api/x", twice, b"abc")[0] == 400
    assert len(up.requests) == 2


def test_bounds(running: Running, up: Upstream) -> None:
    large = running.request("POST", "/flower/api/x", data=b"a" * (2**20 + 1))
    assert (large.status_code, large.json()["error"]["code"]) == (413, "payload_too_large")
    chunked = running.request("POST", "/flower/api/x", data=iter([b"a" * 2**19] * 3))
    assert chunked.status_code == 413
    form = requests.post(f"{running.url}/flower/login", {"username": "a" * 20_000}, headers=PAGE, timeout=30)
    assert form.status_code == 413
    for method in ("PUT", "DELETE", "PATCH"):
        refused = running.request(method, "/flower/")
        assert (refused.status_code, refused.headers["allow"]) == (405, "GET, HEAD, POST")
    assert up.requests == []
    as_json = requests.post(f"{running.url}/flower/login", json={"username": "root"}, timeout=30)
    assert (as_json.status_code, as_json.json()["error"]["code"]) == (400, "content_type")
    many = requests.post(
        f"{running.url}/flower/login",
        "&".join(["a=1"] * 50),
        headers={"Content-Type": "application/x-www-form-urlencoded"},
        timeout=30,
    )
    assert (many.status_code, many.json()["error"]["code"]) == (400, "invalid_form")


def test_an_answer_is_passed_on_as_it_comes(running: Running, up: Upstream) -> None:
    gate = threading.Event()
    up.stream([b"one", b"two"], no_done=True, gate=gate, delay=0.001)
    with running.get("/flower/api/tasks", stream=True) as answer:
        pieces = answer.iter_content(3)
        assert next(pieces) == b"one"
        gate.set()
        assert next(pieces) == b"two"
        assert next(pieces, None) is None


def test_a_broken_answer_is_not_a_whole_one(running: Running, up: Upstream) -> None:
    up.stream([b"one", b"two"], no_done=True, cut_after=1)
    with pytest.raises(requests.exceptions.ChunkedEncodingError):
        running.get("/flower/api/tasks")


def test_only_flowers_own_script_runs_in_line(running: Running, up: Upstream) -> None:
    own, foreign = "\n  var autorefresh = 1;\n", "var autorefresh = 1; alert(1);"
    page = f"<script type='text/javascript'>{own}</script><script>{foreign}</script>".encode()
    up.reply(body=page, headers={"content-type": "text/html; charset=UTF-8"})
    answer = running.get("/flower/")
    assert answer.content == page
    [scripts] = re.findall(r"script-src ([^;]*)", answer.headers["content-security-policy"])
    hashed = base64.b64encode(hashlib.sha256(own.encode()).digest()).decode()
    assert scripts == f"'self' 'sha256-{hashed}'"


def test_redirects_stay_in_flower(running: Running, up: Upstream) -> None:
    own = up.url.removesuffix("/v1")
    for sent, passed in (
        ("/flower/tasks", "/flower/tasks"),
        (f"{own}/flower/tasks", "/flower/tasks"),
        ("https://evil.example/", None),
        ("//evil.example/flower/", None),
    ):
        up.use(raw(f"HTTP/1.1 302 Found\r\nLocation: {sent}\r\nContent-Length: 0\r\n\r\n".encode()), 1)
        answer = running.get("/flower/", allow_redirects=False)
        assert (answer.status_code, answer.headers.get("location")) == (302, passed)


def test_a_page_comes_though_a_kept_connection_is_closed_as_it_is_used(running: Running, up: Upstream) -> None:
    up.reply(body=b"one", headers={"content-type": "text/plain"}, times=1)
    up.close_at_once(1)
    up.reply(body=b"two", headers={"content-type": "text/plain"}, times=1)
    up.reply(body=b"three", headers={"content-type": "text/plain"}, times=1)
    up.close_at_once(1)
    up.reply(body=b"never twice", headers={"content-type": "text/plain"})
    assert [running.get("/flower/").text, running.get("/flower/").text] == ["one", "two"]
    assert running.get("/flower/").text == "three"
    asked = len(up.requests)
    assert running.request("POST", "/flower/api/worker/shutdown/w").status_code == 503
    assert len(up.requests) == asked + 1


def test_a_flower_that_is_down_is_told_how_to_start(running: Running, up: Upstream) -> None:
    up.close_at_once()
    page = running.get("/flower/", headers=PAGE)
    assert (page.status_code, page.headers["retry-after"]) == (503, "5")
    assert "<code>sage flower</code>" in page.text
    assert "没有运行" in running.get("/flower/", headers={**PAGE, "Accept-Language": "zh"}).text
    fault = running.get("/flower/api/workers").json()["error"]
    assert (fault["code"], "sage flower" in fault["message"]) == ("flower_unavailable", True)


def test_a_flower_with_another_password_is_told_so(running: Running, up: Upstream) -> None:
    up.reply(status=401, headers={"www-authenticate": 'Basic realm="flower"'})
    page = running.get("/flower/", headers=PAGE)
    assert page.status_code == 503
    assert "queue.flower.password" in page.text
    assert "www-authenticate" not in page.headers


@pytest.mark.parametrize(
    ("accepted", "language"),
    [
        ("", "en"),
        ("zh", "zh"),
        ("zh-Hant-TW", "zh"),
        ("en-US,en;q=0.9,zh;q=0.8", "en"),
        ("fr, zh;q=0.5, en;q=0.4", "zh"),
        ("zh;q=0", "en"),
        ("zh;q=oops,,;;", "en"),
    ],
)
def test_the_form_speaks_the_browsers_language(running: Running, accepted: str, language: str) -> None:
    page = get(running, "/flower/login", {**PAGE, "Accept-Language": accepted}).text
    assert f'<html lang="{language}">' in page
    assert ("密码" if language == "zh" else "Password") in page


def test_a_session_goes_on_while_it_is_used_but_not_for_ever(tmp_path: Any) -> None:
    """By the clock: half an hour after the last request, eight hours after the login."""
    now = 1_800_000_000.0
    accounts = Accounts(tmp_path, clock=lambda: now, hash_cost=HashCost(memory_kib=64))

    async def live() -> list[float]:
        nonlocal now
        accounts.users.add("root", PASSWORD, role="admin")
        sessions = BrowserSessions(accounts, Authenticator(accounts), clock=lambda: now)

        async def find(value: str) -> Any:
            return await sessions.find({"headers": [(b"cookie", f"sage-flower={value}".encode())]})

        began, cookie = now, await sessions.open("root", PASSWORD, "127.0.0.1")
        assert sessions.renewed(await find(cookie)) is None
        now += IDLE + 1
        assert await find(cookie) is None
        now = began
        cookie = await sessions.open("root", PASSWORD, "127.0.0.1")
        while (session := await find(cookie)) is not None:
            cookie = sessions.renewed(session) or cookie
            now += IDLE / 3
            assert now - began <= LONGEST + IDLE
        return [now - began]

    try:
        [lasted] = asyncio.run(live())
    finally:
        accounts.close()
    assert LONGEST <= lasted <= LONGEST + IDLE / 3


def test_without_auth_this_machine_sees_flower(gateway: Callable[..., Running], up: Upstream) -> None:
    up.reply(body=b"workers", headers={"content-type": "text/plain"})
    running = gateway(auth={"enabled": False}, **sections(up))

    def send(method: str, path: str, headers: dict[str, str]) -> requests.Response:
        return requests.request(
            method,
            running.url + path,
            headers=headers,
            data="a=1" if method == "POST" else None,
            timeout=30,
            allow_redirects=False,
        )

    assert send("GET", "/flower/", PAGE).content == b"workers"
    assert send("GET", "/flower/login", PAGE).headers["location"] == "/flower/"
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    assert send("POST", "/flower/tasks/datatable", {**form, "Origin": running.url}).content == b"workers"
    assert send("POST", "/flower/tasks/datatable", form).json()["error"]["code"] == "cross_site"
    assert send("POST", "/flower/tasks/datatable", {**form, "Origin": "https://evil.example"}).status_code == 400
    assert send("GET", "/flower/", {"Host": "evil.example"}).json()["error"]["code"] == "host_not_allowed"


@pytest.mark.parametrize(
    ("arguments", "extra", "fault"),
    [
        (["--host", "0.0.0.0"], {}, "needs a password that the gateway knows too: set queue.flower.password"),
        (["--host", "::"], {}, "queue.flower.password"),
        (["--host", "192.0.2.1"], {}, "queue.flower.password"),
        (["--host", "0.0.0.0"], {"SAGE_QUEUE__FLOWER__PASSWORD": "short"}, "fewer than 16 characters"),
        ([], {"FLOWER_UNAUTHENTICATED_API": "true"}, "FLOWER_UNAUTHENTICATED_API is set"),
    ],
)
def test_a_flower_that_would_be_open_is_refused(
    arguments: list[str], extra: dict[str, str], fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, value in {"SAGE_DATA_DIR": str(tmp_path / "data"), **extra}.items():
        monkeypatch.setenv(name, value)
    refused = CliRunner().invoke(app, ["flower", *arguments])
    assert isinstance(refused.exception, ConfigError)
    assert fault in refused.exception.message
    assert not (tmp_path / "data").exists()
