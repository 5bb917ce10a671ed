"""Figures for those who watch the server."""

from __future__ import annotations

from fastapi import APIRouter, Response

from app.routers.access import READ, Guarded
from app.routers.deps import Counted, Db, Retained
from app.routers.problems import responses
from app.services import metrics

router = APIRouter(tags=["operations"], route_class=Guarded)


class MetricsText(Response):
    media_type = "text/plain; version=0.0.4"


@router.get("/metrics", dependencies=[READ], responses=responses(), response_class=MetricsText)
def server_metrics(database: Db, requests: Counted, retention: Retained) -> MetricsText:
    """Requests, runs, retention and the process, in the text format of Prometheus."""
    return MetricsText(metrics.exposition(database, requests, retention.last()))
