"""An OAuth server as companies have them: it knows its own scopes, registers clients, and gives JSON web tokens."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import parse_qs, urlencode, urlsplit

from joserfc import jwt
from joserfc.jwk import ECKey

SCOPES = ("openid", "profile", "email")


class OAuthServer:
    """Ends with its ``with`` block. Tokens are for the ``resource`` that a client has named (RFC 8707)."""

    def __init__(self) -> None:
        self.key = ECKey.generate_key("P-256", {"kid": "one", "use": "sig"})
        self.asked: list[dict[str, str]] = []
        """The authorizations that were asked for."""
        oauth = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                oauth._get(self)

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"])).decode()
                oauth._post(self, body)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _get(self, handler: BaseHTTPRequestHandler) -> None:
        path, query = urlsplit(handler.path).path, urlsplit(handler.path).query
        if path == "/authorize":
            self._authorize(handler, {name: values[0] for name, values in parse_qs(query).items()})
        elif path == "/jwks":
            _answer(handler, {"keys": [self.key.as_dict(private=False)]})
        elif path.startswith("/.well-known/"):
            ends = {f"{name}_endpoint": f"{self.url}/{name}" for name in ("token", "registration")}
            codes = {"response_types_supported": ["code"], "code_challenge_methods_supported": ["S256"]}
            scopes = {"scopes_supported": [*SCOPES], "authorization_endpoint": f"{self.url}/authorize"}
            _answer(handler, {"issuer": self.url, "jwks_uri": f"{self.url}/jwks", **ends, **codes, **scopes})
        else:
            _answer(handler, {"error": "not_found"}, 404)

    def _authorize(self, handler: BaseHTTPRequestHandler, asked: dict[str, str]) -> None:
        unknown = set(asked.get("scope", "").split()).difference(SCOPES)
        self.asked.append(asked)
        told = {"error": "invalid_scope"} if unknown else {"code": str(len(self.asked) - 1)}
        handler.send_response(302)
        handler.send_header("location", f"{asked['redirect_uri']}?{urlencode({**told, 'state': asked['state']})}")
        handler.end_headers()

    def _post(self, handler: BaseHTTPRequestHandler, body: str) -> None:
        if handler.path == "/registration":
            _answer(handler, {**json.loads(body), "client_id": "agent"}, 201)
            return
        form = {name: values[0] for name, values in parse_qs(body).items()}
        asked = self.asked[int(form["code"])]
        digest = base64.urlsafe_b64encode(hashlib.sha256(form["code_verifier"].encode()).digest())
        if digest.rstrip(b"=").decode() != asked["code_challenge"] or form["resource"] != asked["resource"]:
            _answer(handler, {"error": "invalid_grant"}, 400)
            return
        now = int(time.time())
        claims = {"iss": self.url, "aud": asked["resource"], "sub": "ann-1", "name": "ann", "iat": now, "exp": now + 60}
        token = jwt.encode({"alg": "ES256", "kid": "one"}, claims, self.key)
        _answer(handler, {"access_token": token, "token_type": "Bearer", "expires_in": 60, "scope": asked["scope"]})


def _answer(handler: BaseHTTPRequestHandler, value: Any, status: int = 200) -> None:
    body = json.dumps(value).encode()
    handler.send_response(status)
    handler.send_header("content-type", "application/json")
    handler.send_header("content-length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body)
