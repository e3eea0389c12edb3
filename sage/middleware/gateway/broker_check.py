"""Whether a broker answers: a frozen one still takes connections, so it is asked for an answer."""

from __future__ import annotations

import asyncio
import ssl
from urllib.parse import urlsplit

_WITHIN = 0.9  # seconds
_PORT = 6379


async def broker_fault(url: str) -> str | None:
    """Why the server at ``url`` (Redis) cannot be used now; ``None`` means that it answers. Never shows a password."""
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port or _PORT
    tls = ssl.create_default_context() if parts.scheme == "rediss" else None
    if tls is not None and "ssl_cert_reqs=none" in parts.query:
        tls.check_hostname, tls.verify_mode = False, ssl.CERT_NONE
    writer: asyncio.StreamWriter | None = None
    try:
        async with asyncio.timeout(_WITHIN):
            reader, writer = await asyncio.open_connection(host, port, ssl=tls)
            writer.write(b"PING\r\n")
            answer = await reader.readline()  # an error, such as a password that is missing, is an answer too
    except TimeoutError:
        return f"the broker at {host}:{port} does not answer"
    except OSError:
        return f"no connection to the broker at {host}:{port}"
    finally:
        if writer is not None:
            writer.close()
    return None if answer[:1] in (b"+", b"-") else f"what listens at {host}:{port} is no Redis server"
