"""Hostile credentials of every kind, generated: none is accepted, and none makes the gateway fail."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from running_gateway import PASSWORD, Running
from test_auth_tokens import b64, sign

from sage.middleware.auth.api_keys.text import make_key
from sage.middleware.auth.grants import KeyRequest
from sage.middleware.auth.job_tokens import PREFIX
from sage.middleware.auth.principal import Asker
from sage.middleware.auth.tokens import AUDIENCE, ISSUER

COUNT = 1000 if os.environ.get("SAGE_TEST_FULL") else 200
_ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"


@dataclass
class Target:
    """What an attacker may have seen: good credentials, and the public half of the key; and what only a thief of the
    private key could sign."""

    good: str
    api_key: str
    job: str
    refresh: str
    pem: str
    public_pem: str
    kid: str
    session: str

    def claims(self, **changes: Any) -> dict[str, Any]:
        now = int(time.time())
        good = {"iss": ISSUER, "aud": AUDIENCE, "sub": "root", "sid": self.session, "jti": "j", "iat": now}
        return {name: value for name, value in {**good, "exp": now + 600, **changes}.items() if value is not None}

    def head(self, **changes: Any) -> dict[str, Any]:
        return {"alg": "ES256", "kid": self.kid, "typ": "JWT", **changes}

    def signed(self, head: dict[str, Any] | str, body: dict[str, Any] | str) -> str:
        return sign(self.pem, *(part if isinstance(part, str) else json.dumps(part) for part in (head, body)))


def by_other_keys(target: Target, chance: random.Random) -> str:
    other = ec.generate_private_key(ec.SECP256R1())
    pem = other.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    kid = chance.choice([target.kid, "x", "", "../keys/signing", "0" * 500, target.kid[:-1]])
    return sign(pem, json.dumps(target.head(kid=kid)), json.dumps(target.claims()))


def by_the_public_key(target: Target, chance: random.Random) -> str:
    name = chance.choice(["HS256", "HS384", "HS512"])
    text = f"{b64(json.dumps(target.head(alg=name)).encode())}.{b64(json.dumps(target.claims()).encode())}"
    digest = {"HS256": hashlib.sha256, "HS384": hashlib.sha384, "HS512": hashlib.sha512}[name]
    secret = chance.choice([target.public_pem, target.public_pem.strip(), target.kid, ""])
    return f"{text}.{b64(hmac.new(secret.encode(), text.encode(), digest).digest())}"


def without_signature(target: Target, chance: random.Random) -> str:
    name = chance.choice(["none", "None", "NONE", "nOnE", "", None, "ES256"])
    text = f"{b64(json.dumps(target.head(alg=name)).encode())}.{b64(json.dumps(target.claims()).encode())}"
    return f"{text}.{chance.choice(['', b64(bytes(64)), b64(bytes(1)), b64(bytes(72))])}"


def odd_heads(target: Target, chance: random.Random) -> str:
    """Signed by the real key, with something in the head that must not be obeyed."""
    odd: dict[str, Any] = chance.choice(
        [
            {"crit": ["exp"]},
            {"jku": "http://127.0.0.1:1/jwks"},
            {"x5u": "http://127.0.0.1:1/x"},
            {"jwk": {"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA"}},
            {"b64": False, "crit": ["b64"]},
            {"zip": "DEF"},
            {"typ": "at+jwt"},
            {"cty": "JWT"},
            {"kid": ["a"]},
            {"kid": None},
            {"alg": ["ES256"]},
            {"alg": "ES384"},
        ]
    )
    return target.signed({**target.head(), **odd}, target.claims())


def odd_claims(target: Target, chance: random.Random) -> str:
    """Signed by the real key, with claims that are not ours."""
    now = int(time.time())
    odd: dict[str, Any] = chance.choice(
        [
            {"aud": "other"},
            {"aud": [AUDIENCE, "other"]},
            {"aud": None},
            {"iss": "https://evil.example"},
            {"iss": None},
            {"exp": now - 1},
            {"exp": None},
            {"exp": 1e300},
            {"exp": str(now + 60)},
            {"exp": True},
            {"exp": 10**400},
            {"iat": now + 86400},
            {"nbf": now + 86400},
            {"sub": "nobody"},
            {"sub": ["root"]},
            {"sub": {"$ne": 1}},
            {"sub": ""},
            {"sub": "root' OR '1'='1"},
            {"sid": "no-such-session"},
            {"sid": None},
            {"sid": 7},
            {"sub": "other"},
        ]
    )
    return target.signed(target.head(), target.claims(**odd))


def doubled(target: Target, chance: random.Random) -> str:
    body, head = json.dumps(target.claims()), json.dumps(target.head())
    if chance.random() < 0.5:
        return target.signed(head[:-1] + f', "kid": "{target.kid}"}}', body)
    name = chance.choice(["sub", "exp", "aud"])
    return target.signed(head, body[:-1] + f', "{name}": {json.dumps(target.claims()[name])}}}')


def broken_json(target: Target, chance: random.Random) -> str:
    body = chance.choice(["[]", "null", "1", "{", '{"a":', "[" * 3000, '"x"', '{"exp":NaN}', "\ufeff{}"])
    return target.signed(json.dumps(target.head()), body)


def respelled(target: Target, chance: random.Random) -> str:
    """The good token, each time with one sign more, fewer or other, or other base64 for the same bytes."""
    text = chance.choice([target.good, target.good, target.job, target.api_key])
    place = chance.randrange(len(text))
    match chance.randrange(6):
        case 0:
            return text[:place] + text[place + 1 :]
        case 1:
            return text[:place] + chance.choice(_ALPHABET) + text[place:]
        case 2:
            return text + chance.choice(["=", "==", ".", "%3D", "A"])
        case 3:
            return text[: max(1, place)]
        case 4:
            return text[:-1] + _ALPHABET[(_ALPHABET.index(text[-1]) + chance.randrange(1, 4)) % 64]
        case _:
            other = chance.choice([sign for sign in _ALPHABET if sign != text[place]])
            return text[:place] + other + text[place + 1 :]


def unknown_keys(target: Target, chance: random.Random) -> str:
    """API keys whose checksum is right: of no key, or of another secret for one that is there."""
    known = target.api_key.removeprefix("sk-sage-").partition("-")[0]
    return make_key(chance.choice([known, None])).text


def jobs(target: Target, chance: random.Random) -> str:
    claims = ["root", "default", None, "job", int(time.time()) + chance.choice([600, -600])]
    body = b64(json.dumps(chance.choice([claims, claims[:3], {}, None])).encode())
    return f"{PREFIX}{body}.{b64(hmac.new(chance.randbytes(32), body.encode(), hashlib.sha256).digest())}"


def in_the_wrong_place(target: Target, chance: random.Random) -> str:
    return chance.choice([target.refresh, "rt-sage-" + "A" * 43, target.kid, target.session, PASSWORD.replace(" ", "")])


def noise(target: Target, chance: random.Random) -> str:
    signs = "".join(chr(chance.choice([*range(33, 127), *range(161, 256)])) for _ in range(chance.randrange(1, 60)))
    return chance.choice(
        [signs, "A" * 9000, "." * chance.randrange(1, 9), f"{signs}.{signs}.{signs}", "sk-sage-" + signs]
    )


ATTACKS: list[Callable[[Target, random.Random], str]] = [
    *(by_other_keys, by_the_public_key, without_signature, odd_heads, odd_claims, doubled, broken_json, respelled),
    *(unknown_keys, jobs, in_the_wrong_place, noise),
]


@pytest.fixture
def attacked(gateway: Callable[..., Running]) -> tuple[Running, Target]:
    running = gateway()
    accounts = running.accounts
    assert accounts is not None
    accounts.users.add("other", PASSWORD)
    login = accounts.sessions.login("root", PASSWORD)
    refresh = accounts.sessions.login("root", PASSWORD).refresh_token
    signer = accounts.tokens.keys.signer
    pem = signer.private_pem
    public = load_pem_private_key(pem.encode(), None).public_key()
    public_pem = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    job = accounts.job_tokens.make(Asker("root", "default"), "job", 600)
    key = accounts.keys.create_for("other", KeyRequest("k")).secret
    session = accounts.tokens.read(login.access_token).session
    return running, Target(login.access_token, key, job, refresh, pem, public_pem, signer.kid, session)


@pytest.mark.slow
def test_no_hostile_credential_is_accepted_and_none_breaks_the_gateway(attacked: tuple[Running, Target]) -> None:
    running, target = attacked
    good = (target.good, target.api_key, target.job, running.key)
    assert [running.get("/v1/models", key=each).status_code for each in good] == [200] * 4
    assert running.get("/v1/models", key=target.signed(target.head(), target.claims())).status_code == 200
    chance, seen, wrong = random.Random(15), set[str](), []
    while len(seen) < COUNT:
        attack = ATTACKS[len(seen) % len(ATTACKS)]
        token = attack(target, chance)
        if token in seen or token in good:
            token += chance.choice(_ALPHABET) * chance.randrange(1, 5)
        if token in seen or token in good:
            continue
        seen.add(token)
        header = f"Bearer {token}".encode("latin-1", "replace")
        answer = running.request("GET", "/v1/models", headers={"Authorization": header})
        if answer.status_code not in (400, 401, 431):
            wrong.append((attack.__name__, answer.status_code, token[:200]))
        assert token not in answer.text or len(token) < 9, attack.__name__
    assert wrong == []
    assert running.get("/v1/models", key=target.good).status_code == 200


@pytest.mark.slow
def test_credentials_open_only_what_they_are_for(attacked: tuple[Running, Target]) -> None:
    running, target = attacked
    for text in (target.good, target.api_key, target.job, "rt-sage-" + "B" * 43, "", "\u00fc", "x" * 9000):
        answer = running.post("/auth/refresh", {"refresh_token": text})
        assert answer.status_code in (400, 401), text[:20]
        answer = running.post("/auth/setup", {"token": text, "username": "eve", "password": PASSWORD})
        assert answer.status_code in (400, 401, 403, 404, 409), (text[:20], answer.text)
    for name in ("access_token", "api_key", "token", "key"):
        assert (
            running.request("GET", f"/v1/models?{name}={target.good}", headers={"Authorization": ""}).status_code == 401
        )
    cookies = {"Cookie": f"access_token={target.good}; refresh_token={target.refresh}", "Authorization": ""}
    assert running.request("GET", "/v1/models", headers=cookies).status_code == 401
    basic = {"Authorization": f"Basic {b64(f'root:{PASSWORD}'.encode())}"}
    assert running.request("GET", "/v1/models", headers=basic).status_code == 401
    assert running.post("/auth/refresh", {"refresh_token": target.refresh}).status_code == 200
