"""Keys of Zhipu: as they are, or as signed tokens; the vendor's SDK is the oracle, the vendor's rules the judge."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import zhipu_wire as wire
from upstream import Upstream

from sage.middleware.providers.base import Endpoint, ModelCall, Operation, UpstreamModel
from sage.middleware.providers.zhipu import RENEW_AFTER, SignedHeaders, ZhipuProvider
from sage.middleware.settings.providers import RemoteProvider

pytestmark = pytest.mark.slow  # nearly each test starts a gateway, or has several threads

OTHER_KEY = "ffeeddccbbaa99887766554433221100.An0therS3cret"


@pytest.fixture
def up() -> Iterator[Upstream]:
    with Upstream() as upstream:
        upstream.handler = wire.zhipu_like
        yield upstream


def serve(gateway: Callable, up: Upstream, **provider: Any) -> Any:
    provider = {"kind": "zhipu", "base_url": wire.base_url(up), "retries": 0, **provider}
    return gateway(llm={"providers": {"zhipu": provider}})


def bearer(up: Upstream, index: int = -1) -> str:
    return up.requests[index].headers["authorization"].removeprefix("Bearer ")


def test_a_key_of_two_halves_signs_tokens_and_never_travels(up: Upstream, gateway: Callable) -> None:
    running = serve(gateway, up, api_key=wire.KEY)
    for _ in range(2):
        assert running.chat("zhipu/glm-4.6").status_code == 200
    assert wire.check_token(bearer(up), wire.KEY) is None
    assert bearer(up, 0) == bearer(up, 1)
    sent = "".join(f"{request.headers}{request.raw!r}" for request in up.requests)
    assert "Zh1puS3cretHalf" not in sent
    assert wire.check_token(bearer(up), OTHER_KEY) == "the signature is wrong"


@pytest.mark.parametrize("key", [wire.PLAIN_KEY, "three.parts.here", ".half", "half."])
def test_any_other_key_is_sent_as_it_is(up: Upstream, gateway: Callable, key: str) -> None:
    serve(gateway, up, api_key=key).chat("zhipu/glm-4.6")
    assert bearer(up) == key


@pytest.mark.filterwarnings("ignore:The HMAC key is")  # the vendor's secrets are as short as this one
def test_a_token_is_signed_as_the_sdk_signs_it() -> None:
    jwt_token = pytest.importorskip("zai.core._jwt_token")
    theirs, ours = jwt_token.generate_token(wire.KEY), SignedHeaders({}, wire.KEY).tokens[0]
    (their_head, their_claims), (our_head, our_claims) = wire.decoded(theirs), wire.decoded(ours)
    assert our_head == their_head
    assert our_claims.keys() == their_claims.keys()
    assert our_claims["api_key"] == their_claims["api_key"]
    lives = [claims["exp"] - claims["timestamp"] for claims in (our_claims, their_claims)]
    assert lives[0] == pytest.approx(lives[1], abs=5)
    assert abs(our_claims["timestamp"] - their_claims["timestamp"]) < 60_000
    assert wire.check_token(theirs, wire.KEY) is wire.check_token(ours, wire.KEY) is None


def test_a_token_is_signed_anew_before_it_ends() -> None:
    now = 1_800_000_000.0
    headers = SignedHeaders({"X-Extra": "1"}, wire.KEY, lambda: now)
    first = headers["Authorization"]
    now += RENEW_AFTER - 1
    headers.renew()
    assert headers["Authorization"] == first
    assert wire.check_token(first.removeprefix("Bearer "), wire.KEY, now) is None
    now += 2
    headers.renew()
    second = headers["Authorization"]
    assert second != first
    assert wire.check_token(second.removeprefix("Bearer "), wire.KEY, now) is None
    # A request that was under way with the first one is still good.
    assert wire.check_token(first.removeprefix("Bearer "), wire.KEY, now) is None
    now -= 3600  # the clock was set right
    headers.renew()
    assert wire.check_token(headers["Authorization"].removeprefix("Bearer "), wire.KEY, now) is None
    assert headers["X-Extra"] == "1"


def test_each_request_goes_with_a_token_that_is_good_when_it_goes() -> None:
    now = 1_800_000_000.0
    provider = ZhipuProvider("zhipu", RemoteProvider(kind="zhipu", api_key=wire.KEY))
    endpoint = Endpoint("http://127.0.0.1:1", SignedHeaders({}, wire.KEY, lambda: now))
    call = ModelCall(Operation.CHAT, {"messages": [{"role": "user", "content": "x"}]}, "glm")
    for _ in range(3):
        request = provider.encode(call, UpstreamModel("glm-4.6"), endpoint)
        token = request.headers["Authorization"].removeprefix("Bearer ")
        assert wire.check_token(token, wire.KEY, now) is None
        now += 3600


def test_neither_keys_nor_tokens_are_told(up: Upstream, gateway: Callable) -> None:
    up.handler = lambda request: wire.error(
        "1210", f"{request.headers['authorization'].split()[1]} of {wire.KEY}, Zh1puS3cretHalf"
    )
    running = serve(gateway, up, api_key=wire.KEY)
    answer = running.chat("zhipu/glm-4.6")
    assert answer.status_code == 400
    for secret in (bearer(up), bearer(up).split(".")[2], *wire.KEY.split(".")):
        assert secret not in answer.text
    assert "[key]" in answer.json()["error"]["message"]


@pytest.mark.proves("zhipu", "several keys")
def test_each_of_several_keys_signs_its_own_tokens(up: Upstream, gateway: Callable) -> None:
    running = serve(gateway, up, api_key=wire.KEY, api_keys=[OTHER_KEY, wire.PLAIN_KEY])
    up.handler = lambda request: wire.reply(wire.answer("glm-4.6", {"role": "assistant", "content": "x"}))
    for _ in range(6):
        assert running.chat("zhipu/glm-4.6").status_code == 200
    used = {bearer(up, i) for i in range(6)}
    assert len(used) == 3
    assert wire.PLAIN_KEY in used
    signed = used - {wire.PLAIN_KEY}
    assert {wire.decoded(token)[1]["api_key"] for token in signed} == {wire.KEY[:32], OTHER_KEY[:32]}
    for key in (wire.KEY, OTHER_KEY):
        assert any(wire.check_token(token, key) is None for token in signed)
