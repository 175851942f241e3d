"""Faults on demand: errors, connections that break, slow ones, and lost answers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass
class Fault:
    """What goes wrong with the requests whose method and path match, as often as `times` says, after `skip` of them.

    kind:
        `status`: answered by `status`, with `headers`; nothing else happens.
        `drop`: the connection is cut after `after` bytes of the request's body, or, if it has none, of the answer's.
        `slow`: each piece of either body waits for `seconds`.
        `lost`: everything happens, and the connection is cut before the answer.
        `meanwhile`: `action` is called first; then nothing is wrong.
    """

    method: str
    path: str  # a regular expression, searched for
    kind: str = "status"
    times: int = 1
    skip: int = 0
    status: int = 500
    headers: dict[str, str] = field(default_factory=dict)
    after: int = 0
    seconds: float = 0.0
    action: Callable[[], None] = lambda: None


def cut(receive: Callable, send: Callable, transport, after: int) -> tuple[Callable, Callable]:
    """`receive` and `send` that cut the connection after so many bytes of the request's body, or of the answer's."""
    passed = 0

    def count(body: bytes) -> None:
        nonlocal passed
        passed += len(body)
        if body and passed > after:
            transport.abort()
            raise ConnectionAbortedError("cut on demand")

    async def cut_receive():
        message = await receive()
        try:
            count(message.get("body", b""))
        except ConnectionAbortedError:
            return {"type": "http.disconnect"}
        return message

    async def cut_send(message):
        if message["type"] == "http.response.body":
            body = message.get("body", b"")
            room = max(0, after - passed)
            if len(body) > room:  # what is before the cut still arrives
                await send({**message, "body": body[:room], "more_body": True})
                await asyncio.sleep(0.05)
            count(body)
        await send(message)

    return cut_receive, cut_send


def slowed(receive: Callable, send: Callable, seconds: float) -> tuple[Callable, Callable]:
    """`receive` and `send` that wait before each piece of a body."""

    async def slow_receive():
        await asyncio.sleep(seconds)
        return await receive()

    async def slow_send(message):
        if message["type"] == "http.response.body" and message.get("body"):
            await asyncio.sleep(seconds)
        await send(message)

    return slow_receive, slow_send
