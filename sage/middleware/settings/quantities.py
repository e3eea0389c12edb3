"""The types of values in the settings: durations, sizes, header texts, addresses. Each names the fault in a value."""

from __future__ import annotations

import difflib
import re
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import SplitResult, urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr

_UNITS = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_SIZES = {"": 1, "b": 1, "kib": 2**10, "mib": 2**20, "gib": 2**30, "kb": 10**3, "mb": 10**6, "gb": 10**9}


def parse_duration(value: Any) -> Any:
    """Seconds from a number or from text like ``90``, ``250ms``, ``10m``, ``30d``."""
    if isinstance(value, str):
        match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d|)", value.strip())
        if match is None:
            raise ValueError(f"'{value}' is not a duration; write seconds, or a number with ms, s, m, h or d (10m)")
        return float(match[1]) * _UNITS[match[2]]
    return _no_truth_value(value)


def parse_size(value: Any) -> Any:
    """Bytes from a number or from text like ``32MiB``."""
    if isinstance(value, str):
        match = re.fullmatch(r"(\d+)\s*([a-z]*)", value.strip().lower())
        if match is None or match[2] not in _SIZES:
            raise ValueError(f"'{value}' is not a size; write bytes, or a number with KiB, MiB or GiB (32MiB)")
        return int(match[1]) * _SIZES[match[2]]
    return _no_truth_value(value)


def _no_truth_value(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError(f"'{str(value).lower()}' is not a quantity")
    return value


def expand(path: Path) -> Path:
    try:
        return path.expanduser()
    except RuntimeError as exc:
        raise ValueError(f"'{path}': {exc}") from exc


Duration = Annotated[float, BeforeValidator(parse_duration), Field(gt=0)]
Size = Annotated[int, BeforeValidator(parse_size), Field(gt=0)]
Text = Annotated[str, Field(min_length=1)]


def nearest(name: str, keys: list[str]) -> str:
    """A hint that names the one of ``keys`` nearest to ``name``, or all of them."""
    match = difflib.get_close_matches(name, keys, 1, 0.6)
    return f"did you mean '{match[0]}'?" if match else f"known here: {', '.join(sorted(keys))}"


def header_value(value: SecretStr) -> SecretStr:
    text = value.get_secret_value()
    if not text.isascii() or not text.isprintable():
        raise ValueError("holds a line end or a character that no HTTP header can carry")
    return value


HeaderName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+$")]
HeaderValue = Annotated[SecretStr, AfterValidator(header_value)]


def _origin(value: str) -> str:
    """The origin as browsers write it: in lower case, without the scheme's own port."""
    origin = value.lower()
    if origin == "*":
        return origin
    if re.fullmatch(r"[a-z][a-z0-9+.-]*://(\[[0-9a-f:.]+\]|[^\s/:?#@*,\[\]]+)(:\d{1,5})?", origin) is None:
        raise ValueError(
            f"'{value[:200]}' is not an origin; write a scheme and a host, and a port if there is one, such as "
            "https://app.example or http://localhost:3000, or '*'"
        )
    scheme, _, _ = origin.partition("://")
    port = {"http": ":80", "https": ":443"}.get(scheme)
    return origin if port is None else origin.removesuffix(port)


Origin = Annotated[str, AfterValidator(_origin)]


def http_address(url: str) -> SplitResult | None:
    """The parts of an address of HTTP; ``None`` means that ``url`` is none."""
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and parts.hostname and (parts.port is None or parts.port > 0)
    except ValueError:
        return None
    return parts if good and re.search(r"\s", url) is None else None


def check_base_url(url: str) -> None:
    """Raises :class:`ValueError`, which does not show the URL, since it may hold a password."""
    if "@" in url.partition("?")[0]:
        raise ValueError("base_url must hold no name and password; give 'api_key', or 'headers' with Authorization")
    if http_address(url) is None:
        raise ValueError("base_url is not an http:// or https:// address such as http://localhost:8001/v1")
    if "#" in url:
        raise ValueError("base_url must have no '#'")


def check_proxy(url: str) -> None:
    """Raises :class:`ValueError`, which does not show the URL, since it may hold a password."""
    parts = http_address(url)
    if parts is None or parts.path not in ("", "/") or parts.query or parts.fragment:
        raise ValueError(
            "a proxy is an http:// or https:// address such as http://proxy.example:3128, with a name and a password "
            "(http://name:password@proxy.example:3128) if it needs them; SOCKS proxies are not supported"
        )


def _proxy(value: SecretStr) -> SecretStr:
    if value.get_secret_value() != "env":
        check_proxy(value.get_secret_value())
    return value


Proxy = Annotated[SecretStr, AfterValidator(_proxy)]
"""The address of a proxy, which may hold a password, or ``env``."""


def ollama_url(value: str) -> str:
    """The address that ``OLLAMA_HOST`` means, as Ollama reads it (its `envconfig/config.go`).

    Scheme, port and even the host may be missing. The variable may also say where the server listens; all addresses
    of a machine are reached at its loopback.
    """
    scheme, separator, rest = value.strip().rpartition("://")
    default_port = {"http": 80, "https": 443}.get(scheme, 80) if separator else 11434
    address, slash, path = rest.partition("/")
    host, port = address, ""
    if match := re.fullmatch(r"(\[.*\]|[^:]*):(\d+)", address):
        host, port = match[1], match[2]
    host = host.strip("[]")
    host = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 (it is not bound)
    host = f"[{host}]" if ":" in host else host
    return f"{scheme or 'http'}://{host}:{port or default_port}{slash}{path}".rstrip("/")
