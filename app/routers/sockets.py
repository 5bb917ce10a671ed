"""Watching a run over a WebSocket."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from fastapi import APIRouter, WebSocket, WebSocketDisconnect
from fastapi.concurrency import run_in_threadpool

from app.db import utcnow
from app.errors import AppError, NotFound
from app.runner.runner import Runner
from app.runner.watching import Watchers
from app.services import live

router = APIRouter(prefix="/api/test")

UNKNOWN_RUN = 4404
GOING_AWAY = 1001
COMMANDS = ("ping", "status", "cancel")


@router.websocket("/ws/{run_id}")
async def watch_run(socket: WebSocket, run_id: str) -> None:
    """Sends the status at once and at each change, and closes after the run's end.

    Takes `ping`, `status` and `cancel`, as plain text, or as JSON: `"ping"` or `{"type": "ping"}`.
    """
    await socket.accept()
    tasks = [asyncio.create_task(_send(socket, run_id)), asyncio.create_task(_answer(socket, run_id))]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        closing = next((code for task in done if (code := task.result()) is not None), None)
    except WebSocketDisconnect:
        closing = None
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    if closing is not None:
        await socket.close(closing)


async def _send(socket: WebSocket, run_id: str) -> int | None:
    """Sends each status; returns the code to close with."""
    watchers: Watchers = socket.app.state.watchers
    ended = False
    try:
        async for found in watchers.follow(run_id):
            await socket.send_text(found.at(utcnow()).model_dump_json())
            ended = found.ended
    except NotFound:
        return UNKNOWN_RUN
    return 1000 if ended else GOING_AWAY


async def _answer(socket: WebSocket, run_id: str) -> None:
    """Answers the client's commands until it goes."""
    while True:
        await socket.send_json(await _answer_to(socket, run_id, _command(await socket.receive_text())))


async def _answer_to(socket: WebSocket, run_id: str, command: str) -> Any:
    runner: Runner = socket.app.state.runner
    try:
        if command == "ping":
            return {"pong": True}
        if command == "status":
            status = await run_in_threadpool(socket.app.state.database.read, live.live_status, run_id)
            return status.model_dump(mode="json")
        if command == "cancel":
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
