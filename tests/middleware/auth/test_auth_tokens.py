"""Access tokens: which are refused, and that no error repeats anything from a refused token."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import multiprocessing
import stat
import string
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from jose import jwt

from sage.errors import AuthenticationFailed, ConfigError
from sage.middleware.auth.accounts import Accounts
from sage.middleware.auth.key_files import are_private_keys
from sage.middleware.auth.signing_keys import KeySet, thumbprint
from sage.middleware.auth.tokens import AUDIENCE, ISSUER, Tokens
from sage.middleware.database.shared_files import DirectoryFiles
from sage.private_files import write_private

NOW = 1_800_000_000


@pytest.fixture
def tokens(tmp_path: Path) -> Tokens:
    return Tokens(KeySet(DirectoryFiles(tmp_path / "keys")), lambda: float(NOW))


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def sign(pem: str, header: str | bytes, claims: str | bytes) -> str:
    """A token with exactly these texts in it, signed with the real key."""
    parts = [b64(part.encode() if isinstance(part, str) else part) for part in (header, claims)]
    key = load_pem_private_key(pem.encode(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    r, s = decode_dss_signature(key.sign(".".join(parts).encode(), ec.ECDSA(hashes.SHA256())))
    return ".".join([*parts, b64(r.to_bytes(32, "big") + s.to_bytes(32, "big"))])


def header(tokens: Tokens, **changes: Any) -> dict[str, Any]:
    return {"alg": "ES256", "kid": tokens.keys.signer.kid, "typ": "JWT", **changes}


def claims(**changes: Any) -> dict[str, Any]:
    good = {"iss": ISSUER, "aud": AUDIENCE, "sub": "me", "sid": "s1", "jti": "j1", "iat": NOW, "exp": NOW + 60}
    return {name: value for name, value in {**good, **changes}.items() if value is not None}


def forge(tokens: Tokens, head: dict[str, Any], body: dict[str, Any]) -> str:
    return sign(tokens.keys.signer.private_pem, json.dumps(head), json.dumps(body))


def refusal(tokens: Tokens, token: str) -> str:
    with pytest.raises(AuthenticationFailed) as caught:
        tokens.read(token)
    return caught.value.message


def test_a_new_token_can_be_read(tokens: Tokens) -> None:
    read = tokens.read(tokens.make("me", "session-1", 60))
    assert (read.subject, read.session, read.expires_at) == ("me", "session-1", NOW + 60)
    assert read.token_id


def test_the_forge_of_these_tests_makes_valid_tokens(tokens: Tokens) -> None:
    read = tokens.read(forge(tokens, header(tokens), claims(nbf=NOW)))
    assert (read.subject, read.session, read.token_id, read.expires_at) == ("me", "s1", "j1", NOW + 60)


def test_tokens_verify_with_the_published_keys_alone(tokens: Tokens) -> None:
    (key,) = tokens.keys.jwks()["keys"]
    assert set(key) == {"kty", "crv", "x", "y", "kid", "alg", "use"}  # no 'd'
    decoded = jwt.decode(tokens.make("me", "s", 60), key, ["ES256"], audience=AUDIENCE, options={"verify_exp": False})
    assert decoded["sub"] == "me"


@pytest.mark.parametrize("name", ["crit", "jku", "x5u", "jwk", "x5c", "x5t", "cty", "zip"])
def test_headers_that_could_point_to_another_key_are_refused(tokens: Tokens, name: str) -> None:
    assert "fields that are not accepted" in refusal(tokens, forge(tokens, header(tokens, **{name: ["exp"]}), claims()))


@pytest.mark.parametrize("typ", ["at+jwt", "jwt", "", None, 1])
def test_another_typ_is_refused(tokens: Tokens, typ: Any) -> None:
    assert "'typ'" in refusal(tokens, forge(tokens, header(tokens, typ=typ), claims()))


def test_an_unknown_or_missing_kid_is_refused(tokens: Tokens) -> None:
    without = header(tokens)
    del without["kid"]
    for head in (without, header(tokens, kid="other"), header(tokens, kid=None), header(tokens, kid=["x"])):
        assert "'kid'" in refusal(tokens, forge(tokens, head, claims()))


@pytest.mark.parametrize("alg", ["none", "None", "HS256", "RS256", "ES384", "es256", "", None])
def test_another_algorithm_than_the_keys_own_is_refused(tokens: Tokens, alg: Any) -> None:
    assert "'alg'" in refusal(tokens, forge(tokens, header(tokens, alg=alg), claims()))


def test_alg_none_without_a_signature_is_refused(tokens: Tokens) -> None:
    bare = f"{b64(json.dumps(header(tokens, alg='none')).encode())}.{b64(json.dumps(claims()).encode())}."
    assert "three base64url parts" in refusal(tokens, bare)


@pytest.mark.parametrize("form", [PublicFormat.SubjectPublicKeyInfo, "jwk"])
@pytest.mark.parametrize("alg", ["HS256", "ES256"])
def test_an_hmac_with_the_public_key_is_refused(tokens: Tokens, form: Any, alg: str) -> None:
    if form == "jwk":
        secret = json.dumps(tokens.keys.jwks()["keys"][0]).encode()
    else:
        private = load_pem_private_key(tokens.keys.signer.private_pem.encode(), None)
        secret = private.public_key().public_bytes(Encoding.PEM, form)
    signed = f"{b64(json.dumps(header(tokens, alg=alg)).encode())}.{b64(json.dumps(claims()).encode())}"
    for digest in (hmac.digest(secret, signed.encode(), "sha256"), hmac.digest(secret, signed.encode(), "sha512")):
        assert refusal(tokens, f"{signed}.{b64(digest)}")


def test_a_signature_by_another_key_is_refused(tokens: Tokens, tmp_path: Path) -> None:
    other = KeySet(DirectoryFiles(tmp_path / "other")).signer
    token = sign(other.private_pem, json.dumps(header(tokens)), json.dumps(claims()))
    assert refusal(tokens, token) == "the access token is not valid: its signature is wrong"


def test_every_changed_character_is_refused(tokens: Tokens) -> None:
    token = tokens.make("me", "s", 60)
    for place in range(len(token)):
        changed = token[:place] + ("A" if token[place] != "A" else "B") + token[place + 1 :]
        refusal(tokens, changed)


def test_a_token_cannot_be_respelled(tokens: Tokens) -> None:
    token = tokens.make("me", "s", 60)
    letters = string.ascii_uppercase + string.ascii_lowercase + string.digits + "-_"
    last = letters.index(token[-1])
    for other in range(last + 1, (last | 15) + 1):  # the last character of a signature carries two of its six bits
        assert "base64url" in refusal(tokens, token[:-1] + letters[other])


def test_a_repeated_claim_or_header_is_refused(tokens: Tokens) -> None:
    pem = tokens.keys.signer.private_pem
    doubled_claim = json.dumps(claims())[:-1] + ', "sub": "root"}'
    doubled_header = json.dumps(header(tokens))[:-1] + ', "alg": "ES256"}'
    nested = json.dumps(claims())[:-1] + ', "x": {"a": 1, "a": 2}}'
    for token in (
        sign(pem, json.dumps(header(tokens)), doubled_claim),
        sign(pem, doubled_header, json.dumps(claims())),
        sign(pem, json.dumps(header(tokens)), nested),
    ):
        assert "each name once" in refusal(tokens, token)


@pytest.mark.parametrize("text", ["[]", "1", '"x"', "", "{", "null", "[" * 3000, '{"a": NaN}', b"\xff{}", "9" * 5000])
def test_parts_that_are_not_json_objects_are_refused(tokens: Tokens, text: str | bytes) -> None:
    pem = tokens.keys.signer.private_pem
    refusal(tokens, sign(pem, json.dumps(header(tokens)), text))
    refusal(tokens, sign(pem, text, json.dumps(claims())))


@pytest.mark.parametrize("name", ["iat", "exp", "nbf"])
@pytest.mark.parametrize("value", [True, False, float(NOW + 30), str(NOW + 30), -1, 2**60, [NOW], {}])
def test_times_that_are_not_whole_seconds_are_refused(tokens: Tokens, name: str, value: Any) -> None:
    assert f"'{name}'" in refusal(tokens, forge(tokens, header(tokens), claims(**{name: value})))


@pytest.mark.parametrize("name", ["iss", "aud", "sub", "exp", "iat", "jti", "sid"])
def test_each_claim_is_required(tokens: Tokens, name: str) -> None:
    refusal(tokens, forge(tokens, header(tokens), claims(**{name: None})))


@pytest.mark.parametrize(
    "changes",
    [{"iss": "evil"}, {"aud": "evil"}, {"aud": [AUDIENCE, "evil"]}, {"sub": 1}, {"sub": ""}, {"jti": 7}, {"sid": []}],
)
def test_claims_of_another_kind_are_refused(tokens: Tokens, changes: dict[str, Any]) -> None:
    refusal(tokens, forge(tokens, header(tokens), claims(**changes)))


def test_times_are_exact_to_the_second(tokens: Tokens) -> None:
    assert "not valid yet" in refusal(tokens, forge(tokens, header(tokens), claims(nbf=NOW + 1)))
    assert "not valid yet" in refusal(tokens, forge(tokens, header(tokens), claims(iat=NOW + 61, exp=NOW + 90)))
    assert tokens.read(forge(tokens, header(tokens), claims(iat=NOW + 60, exp=NOW + 90))).subject == "me"
    assert "expired" in refusal(tokens, forge(tokens, header(tokens), claims(exp=NOW)))
    assert tokens.read(forge(tokens, header(tokens), claims(exp=NOW + 1))).subject == "me"


def test_a_token_over_8_kib_is_refused_without_parsing(tokens: Tokens) -> None:
    fitting = forge(tokens, header(tokens), claims(pad="x" * 5000))
    assert tokens.read(fitting).subject == "me"
    assert "8192 bytes" in refusal(tokens, forge(tokens, header(tokens), claims(pad="x" * 6500)))


@pytest.mark.parametrize("token", ["", "a", "a.b", "a.b.c.d", "a.b.c=", "a b.c.d", "ä.b.c", "..", "a.b.c\n"])
def test_what_is_not_three_base64url_parts_is_refused(tokens: Tokens, token: str) -> None:
    assert "three base64url parts" in refusal(tokens, token)


def test_errors_repeat_nothing_of_the_token(tokens: Tokens) -> None:
    marked = [
        forge(tokens, header(tokens, crit="s3cret"), claims()),
        forge(tokens, header(tokens, kid="s3cret"), claims()),
        forge(tokens, header(tokens, alg="s3cret"), claims()),
        forge(tokens, header(tokens), claims(iss="s3cret")),
        forge(tokens, header(tokens), claims(exp="s3cret")),
        "s3cret",
    ]
    for token in marked:
        message = refusal(tokens, token)
        assert "s3cret" not in message
        assert token not in message


def test_the_kid_is_the_rfc_7638_thumbprint(tokens: Tokens) -> None:
    (key,) = tokens.keys.jwks()["keys"]
    text = f'{{"crv":"P-256","kty":"EC","x":"{key["x"]}","y":"{key["y"]}"}}'
    assert key["kid"] == b64(hashlib.sha256(text.encode()).digest()) == thumbprint(key)


def test_keys_are_private_files_and_stay_the_same(tmp_path: Path) -> None:
    first = KeySet(DirectoryFiles(tmp_path / "keys"))
    (file,) = (tmp_path / "keys").iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    assert KeySet(DirectoryFiles(tmp_path / "keys")).signer == first.signer
    assert "PRIVATE" not in repr(first.signer)


def test_the_highest_key_signs_and_older_ones_still_verify(tmp_path: Path) -> None:
    old = Tokens(KeySet(DirectoryFiles(tmp_path / "keys")), lambda: float(NOW))
    token = old.make("me", "s", 60)
    KeySet(DirectoryFiles(tmp_path / "other"))
    (tmp_path / "other" / "0001.pem").rename(tmp_path / "keys" / "0002.pem")
    new = Tokens(KeySet(DirectoryFiles(tmp_path / "keys"), lambda: float(NOW), overlap=NOW), lambda: float(NOW))
    assert new.keys.signer.kid != old.keys.signer.kid
    assert new.read(token).subject == "me"
    assert "'kid'" in refusal(old, new.make("me", "s", 60))


def test_a_key_file_that_is_open_or_damaged_is_refused(tmp_path: Path) -> None:
    KeySet(DirectoryFiles(tmp_path / "keys"))
    file = tmp_path / "keys" / "0001.pem"
    file.chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 600"):
        KeySet(DirectoryFiles(tmp_path / "keys"))
    file.chmod(0o600)
    file.write_text("-----BEGIN PRIVATE KEY-----\ns3cret\n")
    with pytest.raises(ConfigError, match="not a P-256 private key") as caught:
        KeySet(DirectoryFiles(tmp_path / "keys"))
    assert "s3cret" not in str(caught.value)


def test_accounts_make_their_key_with_the_first_token_and_refuse_a_bad_one_at_once(tmp_path: Path) -> None:
    with closing(Accounts(tmp_path)) as accounts:
        assert not list((tmp_path / "keys").glob("*.pem"))
        token = accounts.tokens.make("me", "s", 60)
    file = tmp_path / "keys" / "0001.pem"
    assert are_private_keys(DirectoryFiles(file.parent))  # as a key of ours is, so that it need not be loaded
    with closing(Accounts(tmp_path)) as accounts:
        assert accounts.tokens.read(token).subject == "me"
    pem = load_pem_private_key(file.read_bytes(), None).private_bytes(
        Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption()
    )
    other_curve = ec.generate_private_key(ec.SECP384R1())
    bad = other_curve.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    for damaged in (bad, file.read_bytes()[:-40], b"", file.read_bytes().replace(b"M", b"N", 1)):
        file.write_bytes(damaged)
        with pytest.raises(ConfigError, match="not a P-256 private key"):
            Accounts(tmp_path)
    file.write_bytes(pem)  # another form of the same key
    with closing(Accounts(tmp_path)) as accounts:
        assert accounts.tokens.read(token).subject == "me"
    file.chmod(0o640)
    with pytest.raises(ConfigError, match="chmod 600"):
        Accounts(tmp_path)


def test_threads_that_start_at_once_agree_on_one_key(tmp_path: Path) -> None:
    for turn in range(5):
        together = threading.Barrier(8)

        def start(directory: Path, together: threading.Barrier = together) -> str:
            together.wait(10)
            return KeySet(DirectoryFiles(directory)).signer.kid

        with ThreadPoolExecutor(8) as pool:
            assert len(set(pool.map(start, [tmp_path / str(turn)] * 8))) == 1


def test_a_private_file_that_exists_wins_unless_replaced(tmp_path: Path) -> None:
    path = tmp_path / "file"
    assert write_private(path, b"first", replace=False)
    assert not write_private(path, b"second", replace=False)
    assert path.read_bytes() == b"first"
    assert write_private(path, b"third", replace=True)
    assert path.read_bytes() == b"third"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [path]


def _kid(directory: Path) -> str:
    return KeySet(DirectoryFiles(directory)).signer.kid


@pytest.mark.slow
def test_processes_that_start_at_once_agree_on_one_key(tmp_path: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(4) as pool:
        kids = pool.map(_kid, [tmp_path / "keys"] * 8, chunksize=1)
    assert len(set(kids)) == 1
    assert [file.name for file in (tmp_path / "keys").iterdir()] == ["0001.pem"]
