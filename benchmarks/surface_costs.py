"""What the same question costs in the shape of each surface, at one gateway."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from bench import Bench, Figure, OfServers
from subjects import Subject
from surfaces import SURFACES
from wire import Ask

_CONNECTIONS = 64
_STREAMS = 32
_CHUNKS = 64
_ROW = "surfaces"


@dataclass(frozen=True)
class Surfaces(OfServers):
    """Messages and Responses beside chat, whole and as streams: all of them turns of the same server."""

    name: str = _ROW
    about: str = (
        f"surfaces: a request, {_CONNECTIONS} connections; a stream of {_CHUNKS} chunks, {_STREAMS} connections"
    )
    figures: tuple[Figure, ...] = (
        Figure("surface_us", "CPU µs a request"),
        Figure("surface_stream_us", "CPU µs a stream"),
    )
    rounds: int = 15

    async def turn(self, bench: Bench, subject: Subject) -> dict[str, float]:
        whole, streams = bench.requests(1_500, subject, _CONNECTIONS), bench.requests(256, subject, _STREAMS)
        cpu, _ = await bench.load(subject, _CONNECTIONS, whole, Ask())
        of_streams, _ = await bench.load(subject, _STREAMS, streams, Ask(chunks=_CHUNKS))
        return {"surface_us": cpu / whole * 1e6, "surface_stream_us": of_streams / streams * 1e6}

    def takes(self, subject: Subject) -> bool:
        return subject.name == "gateway" or _ROW in subject.only_in


def each_surface(gateway: Subject) -> Iterator[Subject]:
    """The server of ``gateway``, asked on its other surfaces."""
    for name, surface in SURFACES.items():
        if name != "chat":
            target = replace(gateway.target, name=name, surface=surface)
            yield replace(gateway, name=name, target=target, only_in=frozenset({_ROW}))
