"""Requests of commands to the running server, over a private socket in its data folder."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import structlog
import trio

from ..control_socket import FILE_NAME, open_control_listener, receive_line
from ..errors import MdserverError, Rejected
from ..feed.broker_state import State
from ..feed.supervised_broker import SupervisedBroker
from ..feed.supervisor import Supervisor
from ..log import RarelyLogged
from ..web.api.overview import broker_list
from .parts import Part

__all__ = ["ControlPart"]

MAX_REQUEST_BYTES = 64 * 1024
REQUEST_S = 5.0
"""A request must be received within this time."""
SETTLE_S = 15.0
"""How long the answer waits for the new state of a restarted broker."""

_log = structlog.get_logger("mdserver")
_rarely = RarelyLogged(_log)

Handler = Callable[[Mapping[str, Any]], Awaitable[Any]]


class ControlPart(Part):
    """Answers commands. ``handlers`` are keyed by the request's ``do``; add them before the start."""

    name = "control"
    needed = False

    def __init__(self, data_dir: Path, supervisor: Supervisor) -> None:
        self._folder = data_dir
        self._supervisor = supervisor
        self.handlers: dict[str, Handler] = {
            "brokers": self._brokers,
            "restart-broker": self._restart_broker,
        }

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
        """See :meth:`Part.run`."""
        listener = await open_control_listener(self._folder)
        task_status.started()
        try:
            await trio.serve_listeners(self._serve, [listener])
        finally:
            with suppress(FileNotFoundError):
                (self._folder / FILE_NAME).unlink()

    async def _serve(self, stream: trio.SocketStream) -> None:
        try:
            with trio.fail_after(REQUEST_S):
                line = await receive_line(stream, MAX_REQUEST_BYTES)
            answer = await self._answer_while_there(line, stream)
            if answer is None:
                return
            with trio.fail_after(REQUEST_S):
                await stream.send_all(msgspec.json.encode(answer) + b"\n")
        except (ValueError, trio.TooSlowError, trio.BrokenResourceError) as error:
            _rarely.warning(
                "a request on the control socket is invalid", error=str(error) or type(error).__name__
            )
        finally:
            await trio.aclose_forcefully(stream)

    async def _answer_while_there(self, line: bytes, stream: trio.SocketStream) -> dict[str, Any] | None:
        """Return the answer, or None if the command was interrupted; its work is then cancelled."""
        answer: dict[str, Any] | None = None
        async with trio.open_nursery() as nursery:

            async def give_up_with_the_command() -> None:
                with suppress(trio.BrokenResourceError):
                    await stream.receive_some(1)
                nursery.cancel_scope.cancel()

            nursery.start_soon(give_up_with_the_command)
            answer = await self._answer(line)
            nursery.cancel_scope.cancel()
        return answer

    async def _answer(self, line: bytes) -> dict[str, Any]:
        try:
            request = msgspec.json.decode(line, type=dict[str, Any])
            handler = self.handlers.get(request.get("do", ""))
            if handler is None:
                raise Rejected(f"found {request.get('do')!r}, expected one of {', '.join(self.handlers)}")
            return {"result": await handler(request)}
        except (MdserverError, msgspec.DecodeError, UnicodeDecodeError, TypeError) as error:
            return {"error": str(error)}

    async def _brokers(self, _: Mapping[str, Any]) -> Any:
        return broker_list(self._supervisor.states())

    async def _restart_broker(self, request: Mapping[str, Any]) -> Any:
        broker = self._supervisor.brokers.get(request.get("broker", ""))
        if broker is None:
            known = ", ".join(self._supervisor.brokers) or "none"
            raise Rejected(f'found broker "{request.get("broker")}", expected a running one: {known}')
        _log.info("a command restarts a broker", broker=broker.name)
        if not await broker.restart("a command asked for it"):
            raise Rejected(f"{broker.name} does not stop in time: it restarts once it has stopped")
        await _settled(broker)
        return broker_list([broker.snapshot()])["brokers"][0]


async def _settled(broker: SupervisedBroker) -> None:
    """Wait, for a bounded time, until a restarted broker is connected or has failed to connect."""
    changed = trio.Event()

    def note(_: SupervisedBroker, state: State, __: str) -> None:
        if state is not State.STARTING:
            changed.set()

    broker.listeners.append(note)
    try:
        with trio.move_on_after(SETTLE_S):
            if broker.state is State.STARTING:
                await changed.wait()
    finally:
        broker.listeners.remove(note)
