"""What the last build of an environment printed, as `log.js` asks for it: piece by piece, growing.

The same words as a job's log has over the API. Nothing is held open: an answer says what is new and
ends, and the browser asks again a second later.
"""

from typing import Any

from django.http import Http404, HttpRequest, HttpResponse

from training.following import RECONNECT, event_frame
from training.models import BuiltEnvironment

State, Asked = BuiltEnvironment.State, BuiltEnvironment.Asked
READ = ("state", "asked", "build_log")
LONGEST = 12
PLAIN = "text/plain; charset=utf-8"


def is_growing(environment: BuiltEnvironment) -> bool:
    """Whether it is being built, or will be: then what the build before printed is over."""
    return environment.state == State.BUILDING or environment.asked == Asked.REBUILD


def log_bytes(environment: BuiltEnvironment) -> bytes:
    """Nothing while a build was asked for and has not begun."""
    if is_growing(environment) and environment.state != State.BUILDING:
        return b""
    return environment.build_log.encode(errors="replace")


def answer(request: HttpRequest, key: str) -> HttpResponse:
    """A piece, all of it, or what came since `offset`. Raises Http404 where there is none."""
    environment = BuiltEnvironment.objects.only(*READ).filter(pk=key).first()
    if environment is None:
        raise Http404("There is no such environment.")
    content = log_bytes(environment)
    if request.GET.get("follow"):
        offset = _number(request.headers.get("Last-Event-ID") or request.GET.get("offset", ""))
        grows = is_growing(environment)
        return HttpResponse(_events(content, offset, grows=grows), content_type="text/event-stream")
    start = _number(request.GET.get("offset", ""))
    length = _number(request.GET.get("length", ""), otherwise=len(content))
    headers = {"X-Log-Dropped": "0"}
    if request.GET.get("download"):
        headers["Content-Disposition"] = f'attachment; filename="build-{key[:12]}.log"'
    return HttpResponse(content[start : start + length], content_type=PLAIN, headers=headers)


def _events(content: bytes, offset: int, *, grows: bool) -> bytes:
    frames = [RECONNECT]
    if offset < len(content):
        text = content[offset:].decode(errors="replace")
        told: dict[str, Any] = {"text": text, "offset": offset, "dropped": 0}
        told |= {"part": "build", "attempt": 1}
        frames.append(event_frame("log", told, event_id=str(len(content))))
    if not grows:
        frames.append(event_frame("end", {}))
    return b"".join(frames)


def _number(text: str, *, otherwise: int = 0) -> int:
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= LONGEST else otherwise
