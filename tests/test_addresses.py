"""URLs of callers: which hosts, spellings and addresses this machine connects to."""

from __future__ import annotations

import asyncio
import ipaddress
import re
import socket

import pytest

from sage.addresses import AddressRefused, AllowedHosts, is_public, parse_url
from sage.pinned_resolver import PinnedResolver

EVERYWHERE = AllowedHosts(["*"], "queue.ingest.url_hosts")
LISTED = AllowedHosts(
    ["docs.example.com", "*.example.org", "other.example:8443", "127.0.0.1:8009", "10.1.0.0/16", "[fd00::1]:80"],
    "queue.ingest.url_hosts",
)

HOSTILE = {
    "http://2130706433/": "spelling",
    "http://0x7f000001/": "spelling",
    "http://0x7f.1/": "spelling",
    "http://0177.0.0.1/": "spelling",
    "http://127.1/": "spelling",
    "http://127.0.0.1.nip.0x1/": "spelling",
    "http://127.0.0.1./": "address",
    "http://127.0.0.1/": "address",
    "http://0/": "spelling",
    "http://0.0.0.0/": "address",
    "http://169.254.169.254/latest/meta-data": "address",
    "http://100.64.0.1/": "address",
    "http://[::1]/": "address",
    "http://[::ffff:127.0.0.1]/": "address",
    "http://[::ffff:7f00:1]/": "address",
    "http://[2002:7f00:1::]/": "address",
    "http://[64:ff9b::a9fe:a9fe]/": "address",
    "http://[fe80::1%25eth0]/": "interface",
    "http://[::1/": "not a URL",
    "http://[v1.x]/": "not a",
    "http://①②⑦.⓪.⓪.①/": "address",
    "http://１２７.0.0.1/": "address",
    "http://127。0。0。1/": "address",
    "http://user@docs.example.com/": "user name",
    "http://docs.example.com@127.0.0.1/": "user name",
    "http://docs.example.com:80@127.0.0.1/": "user name",
    "http://docs.example.com\\@127.0.0.1/": "backslashes",
    "http://docs.example.com\t.evil.example/": "control",
    "http://docs.example.com/ x": "spaces",
    "http://docs.example.com:0/": "port",
    "http://docs.example.com:/": "port",
    "http://docs.example.com:99999/": "not a URL",
    "http://docs.example.com:22/": "not among",
    "http://docs..example.com/": "not the name",
    "http://docs.example.com../": "not the name",
    "http://-docs.example.com/": "not the name",
    "http://docs.example.com%2eevil/": "not the name",
    "http://" + "a" * 64 + ".com/": "not the name",
    "http:///path": "begins with",
    "http:docs.example.com": "begins with",
    "//docs.example.com/": "begins with",
    "docs.example.com": "begins with",
    "file:///etc/passwd": "begins with",
    "gopher://docs.example.com/": "begins with",
    "ftp://docs.example.com/": "begins with",
    "http://docs.example.com/" + "a" * 3000: "at most",
    "": "begins with",
}


@pytest.mark.parametrize("url", HOSTILE)
def test_a_hostile_url_is_refused_whatever_hosts_are_allowed(url: str) -> None:
    with pytest.raises(AddressRefused, match=HOSTILE[url]):
        EVERYWHERE.check(url)


@pytest.mark.parametrize(
    ("url", "clean"),
    [
        ("https://docs.example.com", "https://docs.example.com/"),
        ("HTTPS://Docs.Example.COM./a/b?q=1#part", "https://docs.example.com/a/b?q=1"),
        ("http://docs.example.com:80/", "http://docs.example.com/"),
        ("https://a.b.example.org/x", "https://a.b.example.org/x"),
        ("https://other.example:8443/", "https://other.example:8443/"),
        ("http://127.0.0.1:8009/x", "http://127.0.0.1:8009/x"),
        ("http://10.1.255.255/", "http://10.1.255.255/"),
        ("http://[FD00::0:1]/", "http://[fd00::1]/"),
    ],
)
def test_a_listed_url_is_taken_in_its_one_spelling(url: str, clean: str) -> None:
    assert LISTED.check(url).url == clean


@pytest.mark.parametrize(
    "url",
    [
        "https://example.com/",
        "https://docs.example.com.evil.example/",
        "https://evildocs.example.com/",
        "https://example.org/",
        "https://evilexample.org/",
        "https://other.example/",
        "http://docs.example.com:8443/",
        "http://127.0.0.1:8010/",
        "http://127.0.0.1/",
        "http://10.2.0.1/",
        "http://[fd00::2]/",
        "https://8.8.8.8/",
    ],
)
def test_a_host_that_is_not_listed_is_refused_by_the_name_of_the_setting(url: str) -> None:
    with pytest.raises(AddressRefused, match=r"queue\.ingest\.url_hosts"):
        LISTED.check(url)


def test_without_a_list_nothing_is_allowed() -> None:
    with pytest.raises(AddressRefused):
        AllowedHosts([], "queue.ingest.url_hosts").check("https://docs.example.com/")


def test_names_in_other_scripts_are_compared_as_name_servers_know_them() -> None:
    allowed = AllowedHosts(["bücher.example"], "s")
    assert allowed.check("https://BÜCHER.example/").host == "xn--bcher-kva.example"
    assert allowed.check("https://xn--bcher-kva.example/").url == "https://xn--bcher-kva.example/"
    with pytest.raises(AddressRefused):
        allowed.check("https://bucher.example/")


@pytest.mark.parametrize(
    "entry", ["", "a b", "doc*.example.com", "*.*.com", "http://x.example", "x:0", "x:y", "1.2.3", "*:"]
)
def test_an_entry_that_is_no_host_is_an_error_that_shows_it(entry: str) -> None:
    with pytest.raises(ValueError, match=f"'{re.escape(entry)}'"):
        AllowedHosts([entry], "s")


def _getaddrinfo(monkeypatch: pytest.MonkeyPatch, *answers: list[str]) -> list[str]:
    """A name server that gives each of the answers once, and the hosts that it was asked for."""
    asked: list[str] = []
    pending = list(answers)

    def answer(host: str, port: int, *args: object, **kwargs: object) -> list[object]:
        asked.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in pending.pop(0)]

    monkeypatch.setattr(socket, "getaddrinfo", answer)
    return asked


@pytest.mark.parametrize(
    "addresses", [["127.0.0.1"], ["93.184.215.14", "10.0.0.1"], ["::ffff:10.0.0.1"], ["169.254.169.254"]]
)
def test_a_name_with_an_address_that_is_not_public_is_refused(
    addresses: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    _getaddrinfo(monkeypatch, addresses)
    with pytest.raises(AddressRefused, match="not public") as refused:
        asyncio.run(EVERYWHERE.resolve("https://inside.example/"))
    assert not any(address in str(refused.value) for address in addresses)


def test_a_listed_network_lets_a_listed_name_lead_there(monkeypatch: pytest.MonkeyPatch) -> None:
    _getaddrinfo(monkeypatch, ["10.1.2.3"])
    found = asyncio.run(AllowedHosts(["wiki.corp", "10.1.0.0/16"], "s").resolve("http://wiki.corp/"))
    assert found.addresses == (ipaddress.ip_address("10.1.2.3"),)


def test_a_name_is_asked_for_once_and_connected_to_where_it_was_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = _getaddrinfo(monkeypatch, ["93.184.215.14"], ["127.0.0.1"])

    async def connect() -> list[str]:
        resolver = PinnedResolver(await EVERYWHERE.resolve("https://Rebinding.example/"))
        with pytest.raises(OSError, match="not the host"):
            await resolver.resolve("other.example", 443)
        return [answer["host"] for _ in range(2) for answer in await resolver.resolve("rebinding.example", 443)]

    assert asyncio.run(connect()) == ["93.184.215.14"] * 2
    assert asked == ["rebinding.example"]


@pytest.mark.parametrize(
    ("address", "public"),
    [
        *((address, True) for address in ("8.8.8.8", "2606:4700::1111", "64:ff9b::808:808", "2002:808:808::1")),
        *(
            (address, False)
            for address in (
                *("10.0.0.1", "172.16.0.1", "192.168.1.1", "127.9.9.9", "169.254.1.1", "100.127.0.1", "0.0.0.0"),
                *("224.0.0.1", "239.1.1.1", "240.0.0.1", "255.255.255.255", "192.88.99.1", "198.18.0.1", "192.0.2.1"),
                *("::", "::1", "::7f00:1", "::ffff:8.8.8.8", "fc00::1", "fe80::1", "fec0::1", "ff02::1", "2001::1"),
                *("2001:db8::1", "3fff::1", "64:ff9b::a00:1", "64:ff9b:1::1", "2002:a00:1::1", "100::1", "5f00::1"),
            )
        ),
    ],
)
def test_which_addresses_are_public(address: str, public: bool) -> None:
    assert is_public(ipaddress.ip_address(address)) is public


def test_what_is_not_text_is_no_url() -> None:
    with pytest.raises(AddressRefused, match="must be text"):
        parse_url(7)
