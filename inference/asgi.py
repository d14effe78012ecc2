"""The raw ASGI paths of models: no middleware, no thread held while a model is loading."""

import re
from collections.abc import Awaitable, Callable

import orjson

from inference import gateway, metrics
from inference.dialects import mlflow_invocations, open_inference
from inference.door import Handler, Request
from inference.question import LATEST
from inference.schema import described, openapi_document, schema_document
from registry.rawhttp.asgi import Scope
from registry.rawhttp.problems import Answer

NAMED = r"/mlops/models/(?P<name>[^/]+)/versions/(?P<selector>[^/]+)"
Named = Callable[[Request, str, str], Awaitable[Answer]]


async def _inference(request: Request) -> Answer:
    return await gateway.current().answer(request.body, request_id=request.request_id)


async def _schema(request: Request, name: str, selector: str) -> Answer:
    model = await described(gateway.current(), name, selector)
    return _json(schema_document(model))


async def _openapi(request: Request, name: str, selector: str) -> Answer:
    model = await described(gateway.current(), name, selector)
    return _json(openapi_document(model))


async def _metrics(request: Request) -> Answer:
    page = await gateway.current().threads.call(metrics.page)
    return 200, {"content-type": "text/plain; version=0.0.4; charset=utf-8"}, page


PLAIN: dict[tuple[str, str], Handler] = {
    ("POST", "/mlops/inference"): _inference,
    ("GET", "/metrics"): _metrics,
    ("GET", "/v2"): open_inference.server_metadata,
    ("GET", "/v2/health/live"): open_inference.live,
    ("GET", "/v2/health/ready"): open_inference.ready,
}
PATTERNS: tuple[tuple[str, re.Pattern[str], Named], ...] = (
    ("GET", re.compile(f"{NAMED}/schema"), _schema),
    ("GET", re.compile(rf"{NAMED}/openapi\.json"), _openapi),
    ("POST", re.compile(f"{NAMED}/invocations"), mlflow_invocations.invoke),
    *open_inference.PATTERNS,
    *mlflow_invocations.PATTERNS,
)


def handler_of(scope: Scope) -> Handler | None:
    """None for a path that is somebody else's. A trailing slash is accepted everywhere."""
    path = scope["path"].rstrip("/") if len(scope["path"]) > 1 else scope["path"]
    plain = PLAIN.get((scope["method"], path))
    if plain is not None:
        return plain
    for method, pattern, named in PATTERNS:
        found = pattern.fullmatch(path) if scope["method"] == method else None
        if found is not None:
            return _bound(named, found["name"], found.groupdict().get("selector"))
    return None


def _bound(named: Named, name: str, selector: str | None) -> Handler:
    async def handler(request: Request) -> Answer:
        return await named(request, name, selector or LATEST)

    return handler


def _json(document: object) -> Answer:
    return 200, {"content-type": "application/json"}, orjson.dumps(document)
