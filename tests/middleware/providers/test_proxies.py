"""Providers behind a forward proxy, and addresses that end with a query."""

from __future__ import annotations

import datetime
import ipaddress
import ssl
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import orjson
import pytest
import requests
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from forward_proxy import ForwardProxy
from ollama_wire import OllamaScript
from running_gateway import Running
from sage_process import environment, serving
from tiny_gguf import write_llama
from upstream import Received, Script, Upstream, openai_like

from sage.errors import ConfigError
from sage.middleware.providers.proxies import environment_proxy

FAR = "http://far.example:8123/v1"
"""An address that only the proxy can resolve."""
VARIABLES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    with Upstream() as found:
        yield found


@pytest.fixture
def up(upstream: Upstream) -> Upstream:
    upstream.reset()
    return upstream


@pytest.fixture
def proxy(up: Upstream) -> Iterator[ForwardProxy]:
    with ForwardProxy(up.port) as found:
        yield found


def start(gateway: Callable[..., Running], **provider: Any) -> Running:
    providers = {"far": {"kind": "openai", "api_key": "sk-upstream", "base_url": FAR, **provider}}
    models = {"bench": {"deployments": [{"provider": "far", "model": "theirs-0"}]}}
    return gateway(llm={"providers": {**providers, "local": {"models": {"gemma-3-270m": None}}}, "models": models})


def test_requests_and_streams_go_through_the_proxy(
    gateway: Callable[..., Running], proxy: ForwardProxy, up: Upstream
) -> None:
    running = start(gateway, proxy=proxy.url)
    assert running.chat().json()["choices"][0]["message"]["content"] == "hello"
    assert running.chat(stream=True).text.rstrip().endswith("[DONE]")
    url = f"{FAR}/chat/completions"
    assert [(seen.method, seen.target) for seen in proxy.seen] == [("POST", url), ("POST", url)]
    assert up.requests[0].path == "/v1/chat/completions"
    assert up.requests[0].headers["host"] == "far.example:8123"
    assert up.requests[0].headers["authorization"] == "Bearer sk-upstream"
    assert "proxy-authorization" not in up.requests[0].headers
    assert running.get("/ready").json()["serves"] == ["far"]


def test_models_are_listed_through_it_too(gateway: Callable[..., Running], proxy: ForwardProxy, up: Upstream) -> None:
    running = start(gateway, proxy=proxy.url)
    up.reply({"data": [{"id": "listed"}]}, times=1)
    assert running.chat("listed").status_code == 200
    assert [seen.target for seen in proxy.seen] == [f"{FAR}/models", f"{FAR}/chat/completions"]


def test_an_ollama_server_is_loaded_through_it_too(
    gateway: Callable[..., Running], proxy: ForwardProxy, up: Upstream
) -> None:
    up.handler = OllamaScript()
    running = gateway(llm={"providers": {"ollama": {"base_url": "http://far.example:8123/?tag=a", "proxy": proxy.url}}})
    running.post("/models/ollama%2Fllama3/load")
    assert proxy.seen
    assert all(seen.target.startswith("http://far.example:8123/api/") for seen in proxy.seen)
    assert all(seen.target.endswith("?tag=a") for seen in proxy.seen)


@pytest.mark.parametrize("password", ["right:@/#", "wrong"])
def test_a_proxy_with_a_password(gateway: Callable[..., Running], up: Upstream, password: str) -> None:
    with ForwardProxy(up.port, password="right:@/#") as proxy:
        quoted = requests.utils.quote(password, safe="")
        running = start(gateway, proxy=f"http://name:{quoted}@{proxy.address}")
        answer = running.chat()
    if password == "wrong":
        assert (answer.status_code, answer.json()["error"]["code"]) == (502, "proxy_refused")
        assert "llm.providers.far.proxy" in answer.json()["error"]["message"]
        assert "wrong" not in answer.text
        assert up.requests == []
    else:
        assert answer.status_code == 200, answer.text


@pytest.mark.parametrize("password", [None, "secret-password"])
def test_a_proxy_that_opens_no_tunnel_is_named(
    gateway: Callable[..., Running], up: Upstream, password: str | None
) -> None:
    with ForwardProxy(up.port, refuses=403, password=password) as proxy:
        running = start(gateway, proxy=proxy.url, base_url="https://far.example/v1")
        answer = running.chat()
    assert (answer.status_code, answer.json()["error"]["code"]) == (502, "proxy_refused")
    assert f"answered {403 if password is None else 407}" in answer.json()["error"]["message"]
    assert (proxy.seen[0].method, proxy.seen[0].target) == ("CONNECT", "far.example:443")
    assert "sk-upstream" not in str(proxy.seen), "the key travels inside of the tunnel"


def test_a_proxy_that_is_down_is_named_without_its_password(gateway: Callable[..., Running]) -> None:
    running = start(gateway, proxy="http://name:secret-password@127.0.0.1:9")
    answer = running.chat()
    assert answer.status_code == 502
    assert "its proxy, 127.0.0.1:9" in answer.json()["error"]["message"]
    ready = running.get("/ready")
    assert ready.json()["cannot_serve"]["far"] == "no connection to its proxy at 127.0.0.1:9"
    assert "secret-password" not in answer.text + ready.text


@pytest.mark.slow
def test_the_environment_is_read_where_the_configuration_says_so(
    gateway: Callable[..., Running], proxy: ForwardProxy, up: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", proxy.address)
    assert start(gateway, proxy="env").chat().status_code == 200
    assert len(proxy.seen) == 1
    assert start(gateway, proxy="env", base_url=up.url).chat().status_code == 200, "this machine has no proxy"
    assert start(gateway, base_url=up.url).chat().status_code == 200
    assert len(proxy.seen) == 1
    monkeypatch.setenv("NO_PROXY", "far.example")
    assert start(gateway, proxy="env").chat().status_code == 502
    assert len(proxy.seen) == 1


P = "http://p:1"


@pytest.mark.parametrize(
    ("url", "environ", "proxy"),
    [
        ("http://a.example/v1", {"HTTP_PROXY": P}, P),
        ("http://a.example/v1", {"http_proxy": "http://small:1", "HTTP_PROXY": P}, "http://small:1"),
        ("http://a.example/v1", {"HTTP_PROXY": "p:1"}, P),
        ("http://a.example/v1", {"HTTP_PROXY": "", "ALL_PROXY": P}, P),
        ("http://a.example/v1", {"HTTPS_PROXY": P}, None),
        ("https://a.example/v1", {"HTTPS_PROXY": P, "HTTP_PROXY": "http://q:1"}, P),
        ("https://a.example/v1", {"all_proxy": P}, P),
        ("http://a.example", {}, None),
        *((f"http://{host}:8000", {"ALL_PROXY": P}, None) for host in ("localhost", "127.0.0.1", "127.9.9.9", "[::1]")),
        *(
            ("http://a.example:8000", {"ALL_PROXY": P, "NO_PROXY": listed}, None)
            for listed in (
                "*",
                "a.example",
                "example",
                ".example",
                "*.example",
                "x, A.Example",
                "a.example:8000",
                "x a.example",
            )
        ),
        *(
            ("http://a.example:8000", {"ALL_PROXY": P, "NO_PROXY": listed}, P)
            for listed in ("b.example", "ample", "a.example:80", "10.0.0.0/8", "", ",")
        ),
        ("http://10.1.2.3/v1", {"ALL_PROXY": P, "no_proxy": "10.0.0.0/8"}, None),
        ("http://10.1.2.3/v1", {"ALL_PROXY": P, "no_proxy": "10.1.2.3:80"}, None),
        ("http://11.1.2.3/v1", {"ALL_PROXY": P, "no_proxy": "10.0.0.0/8, 1.2.3"}, P),
        ("http://[fd00::1]/v1", {"ALL_PROXY": P, "no_proxy": "fd00::/8"}, None),
    ],
)
def test_which_proxy_the_environment_names(url: str, environ: dict[str, str], proxy: str | None) -> None:
    assert environment_proxy(url, environ) == proxy


def test_a_socks_proxy_of_the_environment_is_refused_by_its_variable() -> None:
    with pytest.raises(ConfigError, match=r"ALL_PROXY.*SOCKS") as caught:
        environment_proxy("https://a.example", {"ALL_PROXY": "socks5://user:secret@h:1"})
    assert "secret" not in caught.value.message


@pytest.mark.slow
def test_a_model_that_runs_here_is_never_asked_through_a_proxy(
    gateway: Callable[..., Running], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    local = {"models": {"gemma-3-270m": None, "tiny": {"path": str(write_llama(tmp_path / "t.gguf")), "max_tokens": 3}}}
    assert gateway(llm={"providers": {"local": local}}).chat("tiny").status_code == 200


# Queries


@pytest.fixture
def asked(up: Upstream) -> Upstream:
    """Answers whatever the query."""

    def answer(request: Received) -> Script:
        return openai_like(replace(request, path=request.path.partition("?")[0]))

    up.handler = answer
    return up


@pytest.mark.parametrize(
    ("kind", "path"),
    [("openai", "/v1/chat/completions"), ("vllm", "/v1/chat/completions"), ("zhipu", "/v1/chat/completions")],
)
def test_the_query_of_an_address_is_kept_on_each_call(
    gateway: Callable[..., Running], asked: Upstream, kind: str, path: str
) -> None:
    running = start(gateway, kind=kind, base_url=f"{asked.url}/?api-version=2024-10-21")
    assert running.chat().status_code == 200
    assert running.chat(stream=True).status_code == 200
    assert [request.path for request in asked.requests] == [f"{path}?api-version=2024-10-21"] * 2


def test_the_list_of_models_is_asked_with_it(gateway: Callable[..., Running], asked: Upstream) -> None:
    running = start(gateway, base_url=f"{asked.url}?api-version=1&x=y")
    asked.reply({"data": [{"id": "listed"}]}, times=1)
    assert running.chat("listed").status_code == 200
    assert [request.path for request in asked.requests] == [
        "/v1/models?api-version=1&x=y",
        "/v1/chat/completions?api-version=1&x=y",
    ]


def test_a_secret_in_the_query_is_shown_to_nobody(gateway: Callable[..., Running], asked: Upstream) -> None:
    running = start(gateway, base_url=f"{asked.url}?key=very-secret-key")
    asked.reply({"error": {"message": "POST /v1?key=very-secret-key is wrong"}}, status=400)
    answer = running.chat()
    assert (answer.status_code, "very-secret-key" in answer.text) == (400, False)
    assert asked.requests[0].path.endswith("?key=very-secret-key")


# TLS through a tunnel


class _Secure(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        message = {"role": "assistant", "content": "through the tunnel"}
        body = orjson.dumps({"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]})
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Says nothing."""


@pytest.fixture
def secure(tmp_path: Path) -> Iterator[tuple[int, Path]]:
    """``(port, certificate)`` of an HTTPS server that calls itself ``far.example``."""
    key, certificate = _certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Secure)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server.server_port, certificate
    server.shutdown()
    thread.join(10)
    server.server_close()


def _certificate(directory: Path) -> tuple[Path, Path]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "far.example")])
    now = datetime.datetime.now(datetime.UTC)
    names = x509.SubjectAlternativeName(
        [x509.DNSName("far.example"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    )
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(names, critical=False)
        .sign(key, hashes.SHA256())
    )
    files = directory / "key.pem", directory / "certificate.pem"
    files[0].write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    files[1].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    return files


@pytest.mark.slow
def test_tls_goes_through_a_tunnel_of_the_environments_proxy(secure: tuple[int, Path], tmp_path: Path) -> None:
    port, certificate = secure
    config = tmp_path / "config.yaml"
    config.write_text(
        "llm: {providers: {far: {kind: openai, api_key: k, base_url: 'https://far.example/v1', proxy: env}},\n"
        "      models: {bench: {deployments: [{provider: far, model: theirs}]}}}\n"
    )
    with ForwardProxy(port) as proxy:
        variables = {"SSL_CERT_FILE": str(certificate), "HTTPS_PROXY": proxy.url, "NO_PROXY": "near.example"}
        env = environment(tmp_path / "data", **variables)
        with serving(["--no-auth", "--port", "0", "--config", str(config)], env, tmp_path) as running:
            body = {"model": "bench", "prompt": "hello"}
            answer = requests.post(f"{running.url}/generate", json=body, timeout=20, proxies={"http": ""})
            assert answer.json()["text"] == "through the tunnel"
        assert [(seen.method, seen.target) for seen in proxy.seen] == [("CONNECT", "far.example:443")]
