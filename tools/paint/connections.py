"""Connections to the paint page: those that have not shown its token are few, and not for long."""

import asyncio

from uvicorn.protocols.http.h11_impl import H11Protocol

MAX_STRANGERS = 32
"""Connections without the token; of more than these the oldest is closed. A browser opens six at most."""
MAX_SECONDS = 10
"""Until a connection has to have shown the token."""


def protocol_for(token: str) -> type[asyncio.Protocol]:
    """Return uvicorn's HTTP protocol, for connections that have to name the token as first part of a path.

    Without it a program that opens connections and sends nothing, or never ends its headers, would keep
    out the owner of the page: uvicorn waits for it for ever.
    """
    strangers: dict[asyncio.Protocol, asyncio.TimerHandle] = {}  # in the order in which they came
    known = f"/{token}"

    class Protocol(H11Protocol):
        def connection_made(self, transport: asyncio.Transport) -> None:
            super().connection_made(transport)
            if len(strangers) >= MAX_STRANGERS:
                _dismiss(next(iter(strangers)))
            strangers[self] = self.loop.call_later(MAX_SECONDS, _dismiss, self)

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self in strangers and self.scope is not None and self.scope["path"].startswith(known):
                strangers.pop(self).cancel()

        def connection_lost(self, error: Exception | None) -> None:
            super().connection_lost(error)
            if self in strangers:
                strangers.pop(self).cancel()

    def _dismiss(stranger: Protocol) -> None:
        strangers.pop(stranger).cancel()
        stranger.transport.abort()

    return Protocol
