"""The web process: what may be held goes to raw ASGI handlers, all else to Django in threads.

Django's own ASGI handler answers 4-5 times fewer requests than Django behind `a2wsgi`, and a raw
handler lets a request wait, for a cold model or for a job, without holding a thread.
"""

from typing import Any, cast

from a2wsgi import WSGIMiddleware

from mlops_site.wsgi import application as django_application
from rawhttp.asgi import Receive, Scope, Send

# After Django's set-up: the handlers read models.
from inference import gateway  # isort: skip
from inference.asgi import inference_app  # isort: skip
from training import asgi as following  # isort: skip

DJANGO_THREADS = 8
_django = WSGIMiddleware(cast(Any, django_application), workers=DJANGO_THREADS)


async def application(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "lifespan":
        await _lifespan(receive, send)
        return
    if scope["type"] != "http":
        return
    if scope["method"] == "POST" and scope["path"].rstrip("/") == "/mlops/inference":
        await inference_app(scope, receive, send)
        return
    if following.is_followed(scope):
        await following.following_app(scope, receive, send)
        return
    await _django(scope, receive, send)  # type: ignore[arg-type]


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        if message["type"] == "lifespan.shutdown":
            await gateway.close()
            await following.close()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
