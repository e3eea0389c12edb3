"""Single sign-on: logins at a real OpenID provider, and access tokens of an issuer whose keys we have."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import requests
from joserfc import jwt
from joserfc.jwk import ECKey, OctKey
from ports import free_port, wait_for_port
from upstream import Upstream, chat_chunk
from worker_family import worker_family

pytestmark = pytest.mark.slow
AUDIENCE = "https://gateway.example"
ROLES = {"sage-users": "user", "sage-admins": "admin"}


def settings(issuer: str, **more: Any) -> dict[str, Any]:
    claims = {"user": "name", "roles": "groups"}
    oidc = {"issuer": issuer, "client_id": "sage", "client_secret": "s3cret", "claims": claims, "role_map": ROLES}
    return {"auth": {"oidc": {**oidc, **more}}}


@pytest.fixture
def provider() -> Iterator[str]:
    port = free_port()
    command = [sys.executable, "-W", "ignore", "-m", "oidc_provider_mock", "--port", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for_port(port)
        yield f"http://localhost:{port}"
    finally:
        server.kill()
        server.wait(10)


def is_known(provider: str, subject: str, **claims: Any) -> None:
    requests.put(f"{provider}/users/{subject}", json=claims, timeout=10).raise_for_status()


def log_in(gateway: Any, subject: str, browser: requests.Session | None = None) -> requests.Response:
    """What a browser does, from the gateway to the provider and back; the last answer is the gateway's."""
    browser = browser or requests.Session()
    url = gateway.url.replace("127.0.0.1", "localhost")
    begun = browser.get(f"{url}/auth/oidc/login", params={"next": "/docs"}, allow_redirects=False, timeout=30)
    assert begun.status_code == 303, begun.text
    query = parse_qs(urlsplit(begun.headers["location"]).query)
    assert query["code_challenge_method"] == ["S256"]
    back = browser.post(begun.headers["location"], data={"sub": subject}, allow_redirects=False, timeout=30)
    assert back.headers["location"].startswith(f"{url}/auth/oidc/callback?"), back.text
    return browser.get(back.headers["location"], allow_redirects=False, timeout=30)


def test_a_browser_logs_in_and_its_rights_follow_the_claims(provider: str, gateway: Callable[..., Any]) -> None:
    running = gateway(**settings(provider))
    is_known(provider, "ann-1", name="ann", groups=["sage-users", "others"])
    browser = requests.Session()
    answer = log_in(running, "ann-1", browser)
    assert (answer.status_code, answer.headers["location"]) == (303, "/docs")
    refresh = f"{running.url.replace('127.0.0.1', 'localhost')}/auth/refresh"
    token = browser.post(refresh, timeout=30).json()["access_token"]
    me = running.get("/auth/me", key=token).json()
    assert (me["user"], me["role"], me["tenant"]) == ("ann", "user", "default")
    key = running.post("/auth/keys", {"name": "k"}, key=token).json()["key"]

    time.sleep(1.1)  # claims are told apart by the second
    is_known(provider, "ann-1", name="ann", groups=["sage-admins"])
    assert log_in(running, "ann-1").status_code == 303
    assert running.get("/auth/me", key=token).json()["role"] == "admin"

    time.sleep(1.1)
    is_known(provider, "ann-1", name="ann", groups=[])
    refused = log_in(running, "ann-1")
    assert (refused.status_code, refused.json()["error"]["code"]) == (401, "no_role")
    for credential in (token, key):
        assert running.get("/auth/me", key=credential).status_code == 401
    assert browser.post(refresh, timeout=30).status_code == 401


def test_a_login_is_bound_to_its_browser_and_leads_nowhere_else(provider: str, gateway: Callable[..., Any]) -> None:
    running = gateway(**settings(provider))
    is_known(provider, "ann-1", name="ann", groups=["sage-users"])
    url = running.url.replace("127.0.0.1", "localhost")
    mine, other = requests.Session(), requests.Session()
    for target in ("https://evil.example", "//evil.example", "/\\evil.example", "/../x", "javascript:alert(1)"):
        begun = mine.get(f"{url}/auth/oidc/login", params={"next": target}, allow_redirects=False, timeout=30)
        assert begun.headers["set-cookie"].split(";")[0].endswith("./docs")
        assert "HttpOnly; SameSite=Lax" in begun.headers["set-cookie"]
    back = mine.post(begun.headers["location"], data={"sub": "ann-1"}, allow_redirects=False, timeout=30)
    without = other.get(back.headers["location"], allow_redirects=False, timeout=30)
    assert without.json()["error"]["code"] == "login_expired"
    other.get(f"{url}/auth/oidc/login", allow_redirects=False, timeout=30)
    assert (
        "'state'" in other.get(back.headers["location"], allow_redirects=False, timeout=30).json()["error"]["message"]
    )
    assert "sage-session" not in other.cookies
    refused = mine.get(f"{url}/auth/oidc/callback?error=access_denied", timeout=30)
    assert refused.json()["error"]["code"] == "provider_refused"


def test_only_who_is_invited_comes_in_and_nobody_takes_a_local_name(provider: str, gateway: Callable[..., Any]) -> None:
    running = gateway(**settings(provider, create_users="invited"))
    is_known(provider, "ann-1", name="ann", groups=["sage-users"])
    assert log_in(running, "ann-1").json()["error"]["code"] == "not_invited"
    running.accounts.users.add("ann", None)
    assert log_in(running, "ann-1").status_code == 303
    is_known(provider, "eve-1", name="root", groups=["sage-admins"])
    assert log_in(running, "eve-1").json()["error"]["code"] == "name_taken"


def test_the_team_is_the_one_that_the_claim_names(provider: str, gateway: Callable[..., Any]) -> None:
    claims = {"user": "name", "roles": "groups", "tenant": "org.team"}
    running = gateway(**settings(provider, claims=claims, role_map={**ROLES, "heads": "owner"}))

    def come(subject: str, team: Any, *, groups: list[str] | None = None) -> str:
        """What a login ends with: the error's code, or who the browser is then."""
        given = {} if team is ABSENT else {"org": {"team": team}}
        is_known(provider, subject, name=subject, groups=groups or ["sage-users"], **given)
        browser = requests.Session()
        answer = log_in(running, subject, browser)
        if answer.status_code != 303:
            assert answer.status_code == 401, answer.text
            return str(answer.json()["error"]["code"])
        refresh = f"{running.url.replace('127.0.0.1', 'localhost')}/auth/refresh"
        tokens[subject] = browser.post(refresh, timeout=30).json()["access_token"]
        me = running.get("/auth/me", key=tokens[subject]).json()
        return f"{me['role']} of {me['tenant']}"

    ABSENT, tokens = object(), dict[str, str]()
    assert come("ann", "acme") == "user of acme"
    assert come("olga", ["acme"], groups=["heads", "sage-users"]) == "owner of acme"
    assert come("cap", "Acme") == "user of Acme"  # another team
    hostile = ["", "../acme", "acme/../x", "a" * 65, "acme\n", "ac\u0441e", "tenant:acme", "-acme", "acme\u0000"]
    for number, team in enumerate([ABSENT, None, 7, {"acme": 1}, [], ["acme", "other"], [["acme"]], *hostile]):
        assert come(f"no-{number}", team) == "no_role", team
    teams = {team["name"] for team in running.get("/auth/teams").json()["teams"]}
    assert teams == {"acme", "Acme", "default"}
    members = running.get("/auth/users", key=tokens["olga"]).json()["users"]
    assert [user["name"] for user in members] == ["ann", "olga"]
    assert running.post("/auth/teams", {"name": "closed"}).status_code == 201
    assert running.request("DELETE", "/auth/teams/closed").status_code == 200
    assert come("late", "closed") == "no_role"

    key = running.post("/auth/keys", {"name": "k"}, key=tokens["ann"]).json()["key"]
    time.sleep(1.1)  # claims are told apart by the second
    old = tokens["ann"]
    assert come("ann", "other", groups=["heads"]) == "owner of other"
    assert running.get("/auth/me", key=old).json()["tenant"] == "other"
    assert running.get("/auth/me", key=key).status_code == 401  # its data is the old team's
    assert running.get("/auth/users", key=old).json()["users"][0]["name"] == "ann"
    assert come("olga", "../acme") == "no_role"
    for credential in (tokens["olga"], key):
        assert running.get("/auth/me", key=credential).status_code == 401
    time.sleep(1.1)
    assert come("ann", ABSENT) == "no_role"
    assert running.get("/auth/me", key=old).status_code == 401
    told = running.get("/audit", params={"action": "user.claims", "target": "user:ann"}).json()["events"]
    moves = [[each["details"][name] for name in ("tenant_before", "tenant", "role", "disabled")] for each in told]
    assert moves == [["other", "other", "owner", True], ["acme", "other", "owner", False]]


class Issuer:
    """A provider of which we have the signing key; it counts how often its keys are fetched."""

    def __init__(self) -> None:
        self.key = ECKey.generate_key("P-256", {"kid": "one", "use": "sig"})
        self.fetched = 0
        issuer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if self.path == "/jwks":
                    issuer.fetched += 1
                    body: Any = {"keys": [issuer.key.as_dict(private=False)]}
                else:
                    ends = {"authorization_endpoint": "a", "token_endpoint": "t", "jwks_uri": "jwks"}
                    body = {"issuer": issuer.url, **{name: f"{issuer.url}/{end}" for name, end in ends.items()}}
                self.send_response(200)
                self.end_headers()
                self.wfile.write(json.dumps(body).encode())

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    def token(self, *, key: Any = None, header: dict[str, Any] | None = None, **claims: Any) -> str:
        now = int(time.time())
        usual = {"iss": self.url, "aud": AUDIENCE, "sub": "bob-1", "name": "bob", "groups": ["sage-users"]}
        claims = {**usual, "iat": now, "exp": now + 300, **claims}
        given = {"alg": "ES256", "kid": "one", **(header or {})}
        return jwt.encode(given, claims, key or self.key, algorithms=[given["alg"]])


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    issuer = Issuer()
    yield issuer
    issuer.close()


def test_access_tokens_of_the_issuer_are_accepted_and_others_are_not(
    issuer: Issuer, gateway: Callable[..., Any]
) -> None:
    running = gateway(**settings(issuer.url, audience=AUDIENCE))
    me = running.get("/auth/me", key=issuer.token()).json()
    assert (me["user"], me["role"], me["credential"]) == ("bob", "user", "oidc:bob-1")
    now = int(time.time())
    shared = OctKey.import_key("x" * 32)
    bad = [
        issuer.token(aud="another"),
        issuer.token(iss="https://evil.example"),
        issuer.token(exp=now - 61),
        issuer.token(iat=now + 120),
        issuer.token(nbf=now + 120),
        issuer.token(nonce="n"),
        issuer.token(sub=""),
        issuer.token(name=None),
        issuer.token(exp="soon"),
        issuer.token(key=ECKey.generate_key("P-256")),
        issuer.token(key=shared, header={"alg": "HS256"}),
        issuer.token()[:-4] + "AAAA",
    ]
    answers = [running.get("/auth/me", key=token) for token in bad]
    assert [answer.status_code for answer in answers] == [401] * len(bad)
    assert running.get("/auth/me", key=issuer.token(exp=now - 30)).status_code == 200  # within the clocks' skew
    fetched = issuer.fetched
    for number in range(20):
        assert running.get("/auth/me", key=issuer.token(header={"kid": f"k{number}"})).status_code == 401
    assert issuer.fetched == fetched == 1  # unknown keys do not make us ask again and again

    issuer.close()
    assert running.get("/auth/me", key=issuer.token(jti="new")).status_code == 200
    assert running.get("/auth/me", key=issuer.token(groups=[], iat=now + 2)).json()["error"]["code"] == "no_role"
    assert running.get("/auth/me", key=issuer.token(jti="older")).json()["error"]["code"] == "no_role"


def test_a_claim_that_is_gone_ends_the_open_streams_of_its_user(issuer: Issuer, upstreams: Callable[..., Any]) -> None:
    with Upstream() as up:
        running = upstreams(up, **settings(issuer.url, audience=AUDIENCE))
        up.stream([chat_chunk("Hi"), chat_chunk(None, "stop")], hang_after=1)
        tokens = issuer.token(), issuer.token(sub="sue-1", name="sue")
        streams = [running.chat(stream=True, key=token) for token in tokens]
        lines = [each.iter_lines() for each in streams]
        assert all(b"Hi" in next(each) for each in lines)
        taken = issuer.token(groups=[], iat=int(time.time()) + 2)
        assert running.get("/auth/me", key=taken).json()["error"]["code"] == "no_role"
        began = time.monotonic()
        assert b'"rights_revoked"' in b"\n".join(lines[0])
        assert time.monotonic() - began < 5
        assert up.requests[0].closed.wait(5)
        assert not up.requests[1].closed.wait(0.5)
        streams[1].close()


def test_a_stream_outlives_its_members_token_at_every_worker_but_not_its_rights(issuer: Issuer, tmp_path: Path) -> None:
    with worker_family(tmp_path, auth=settings(issuer.url, audience=AUDIENCE)["auth"]) as family:
        family.upstream.stream([chat_chunk("Hi"), chat_chunk(None, "stop")], hang_after=1)
        token = issuer.token(exp=int(time.time()) - 55)  # good for five more seconds, which clocks may differ by
        body = {"model": "free", "messages": [{"role": "user", "content": "hi"}], "stream": True}
        opened = [family.client(worker, key=token) for worker in (0, 1)]
        streams = [client.begin("POST", "/v1/chat/completions", body) for client in opened]
        assert all(b"Hi" in each.readline() for each in streams)
        her, admin = family.client(1, key=token), family.client(0)
        while her.ask("GET", "/auth/me").status != 401:
            time.sleep(0.2)
        assert admin.ask("POST", "/auth/users", {"username": "bo", "password": "a fine password of his"}).status == 201
        time.sleep(1)  # rights have changed, but not hers
        assert not any(request.closed.is_set() for request in family.upstream.requests)
        her.key = issuer.token(groups=[], iat=int(time.time()) + 2)
        began = time.monotonic()
        assert her.ask("GET", "/auth/me").json["error"]["code"] == "no_role"
        assert all(b'"rights_revoked"' in each.read() for each in streams)
        assert time.monotonic() - began < 5
        family.close_clients()


def test_a_provider_that_is_down_is_named(gateway: Callable[..., Any]) -> None:
    running = gateway(**settings("http://127.0.0.1:9"))
    answer = running.get("/auth/oidc/login", headers={"Host": "localhost"}, allow_redirects=False)
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "provider_unavailable")
    assert "http://127.0.0.1:9" in answer.json()["error"]["message"]
    assert running.get("/auth/me").status_code == 200  # keys go on


def test_without_it_there_is_none(gateway: Callable[..., Any]) -> None:
    assert gateway().get("/auth/oidc/login").json()["error"]["code"] == "no_single_sign_on"
