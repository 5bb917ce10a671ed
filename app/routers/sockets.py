"""Watching a run over a WebSocket."""

from __future__ import annotations

import json
from typing import Any

from anyio import Event, create_task_group
from fastapi import APIRouter, WebSocket, WebSocketDisconnect
from fastapi.concurrency import run_in_threadpool

from app.db import utcnow
from app.errors import AppError, NotFound
from app.routers.access import SUBPROTOCOL, admit
from app.routers.problems import render_error
from app.runner.runner import Runner
from app.runner.watching import Watchers
from app.services import live
from app.vocabulary import Scope

router = APIRouter(prefix="/api/test")

UNKNOWN_RUN = 4404
GOING_AWAY = 1001
COMMANDS = ("ping", "status", "cancel")


@router.websocket("/ws/{run_id}")
async def watch_run(socket: WebSocket, run_id: str) -> None:
    """Sends the status at once and at each change, and closes after the run's end.

    Takes `ping`, `status` and `cancel`, as plain text, or as JSON: `"ping"` or `{"type": "ping"}`.
    """
    try:
        admit(socket, Scope.READ)
    except AppError as error:
        await socket.send_denial_response(render_error(error))
        return
    await socket.accept(SUBPROTOCOL if SUBPROTOCOL in socket.scope["subprotocols"] else None)
    closing: int | None = None
    answering = Answering()
    async with create_task_group() as group:

        async def send() -> None:
            nonlocal closing
            closing = await _send(socket, run_id)
            await answering.idle.wait()  # who cancels a run is told so before it closes
            group.cancel_scope.cancel()

        async def answer() -> None:
            await _answer(socket, run_id, answering)
            group.cancel_scope.cancel()

        group.start_soon(send)
        group.start_soon(answer)
    if closing is not None:
        await socket.close(closing)


async def _send(socket: WebSocket, run_id: str) -> int | None:
    """Sends each status; returns the code to close with, or None when the client has gone."""
    watchers: Watchers = socket.app.state.watchers
    ended = False
    try:
        async for found in watchers.follow(run_id):
            await socket.send_text(found.at(utcnow()).model_dump_json())
            ended = found.ended
    except NotFound:
        return UNKNOWN_RUN
    except WebSocketDisconnect:
        return None
    return 1000 if ended else GOING_AWAY


class Answering:
    """Whether a command is being answered."""

    def __init__(self) -> None:
        self.idle = Event()
        self.idle.set()


async def _answer(socket: WebSocket, run_id: str, answering: Answering) -> None:
    """Answers the client's commands until it goes."""
    while (message := await socket.receive())["type"] == "websocket.receive":
        answering.idle = Event()
        said = message.get("text") or (message.get("bytes") or b"").decode(errors="replace")
        answer = await _answer_to(socket, run_id, _command(said))
        try:
            await socket.send_json(answer)
        except WebSocketDisconnect:
            return
        finally:
            answering.idle.set()


async def _answer_to(socket: WebSocket, run_id: str, command: str) -> Any:
    runner: Runner = socket.app.state.runner
    try:
        if command == "ping":
            return {"pong": True}
        if command == "status":
            status = await run_in_threadpool(socket.app.state.database.read, live.live_status, run_id)
            return status.model_dump(mode="json")
        if command == "cancel":
            admit(socket, Scope.WRITE)
            async with socket.app.state.writers.turn():
                answer = await run_in_threadpool(runner.cancel, run_id)
            return {"cancelled": answer.cancelled}
    except AppError as error:
        return {"error": error.detail}
    return {"error": f"There is no such command; there are: {', '.join(COMMANDS)}."}


def _command(text: str) -> str:
    try:
        said = json.loads(text)
    except (ValueError, RecursionError):
        said = text
    if isinstance(said, dict):
        said = next((said[key] for key in ("type", "action", "command") if key in said), "")
    return said.strip().lower() if isinstance(said, str) else ""
