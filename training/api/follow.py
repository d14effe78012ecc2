"""The documented face of waiting and following; the web process answers them in `training.asgi`.

These views also answer where there is no ASGI: the same bytes, but nobody is held. A stream ends
when it has told what there is, and its client comes back for the rest by itself.
"""

from collections.abc import Iterator

from django.http import HttpRequest, HttpResponse, HttpResponseBase, StreamingHttpResponse
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import (
    OpenApiExample,
    OpenApiParameter,
    OpenApiResponse,
    extend_schema,
)
from rest_framework import serializers
from rest_framework.negotiation import BaseContentNegotiation
from rest_framework.renderers import BaseRenderer
from rest_framework.request import Request
from rest_framework.views import APIView

from registry.rawhttp.asgi import Asked
from registry.rawhttp.problems import Answer
from training import following
from training.following import EventPosition, LogPosition, LogText, Refused
from training.models import LogChunk
from training.states import Phase, Reason, Status

STREAM_EXAMPLE = (
    "retry: 1000\n\n"
    'event: state\ndata: {"status":"running","phase":"training","reason":null}\n\n'
    "id: 19\nevent: log\n"
    'data: {"text":"Training...\\nEpoch 1","offset":0,"part":"run","attempt":1,"dropped":0}\n\n'
    "id: 19-end\nevent: end\n"
    'data: {"status":"completed","phase":"ended","reason":"succeeded","error":null,"hint":null}\n\n'
)
EVENTS_EXAMPLE = {
    "job_id": "abc-123-def",
    "status": "running",
    "events": [
        {
            "id": 7,
            "at": "2025-10-23T10:00:00Z",
            "name": "accepted",
            "status": "queued",
            "phase": "waiting",
            "attempt": None,
            "actor": "127.0.0.1",
            "reason": None,
            "detail": None,
        }
    ],
    "next_after": 7,
}


def _query(
    name: str, kind: type, description: str, *, enum: list[str] | None = None
) -> OpenApiParameter:
    return OpenApiParameter(name, kind, OpenApiParameter.QUERY, description=description, enum=enum)


def _header(name: str, description: str) -> OpenApiParameter:
    return OpenApiParameter(name, str, OpenApiParameter.HEADER, description=description)


def _told(name: str, kind: type, description: str, *, status: list[int]) -> OpenApiParameter:
    return OpenApiParameter(
        name, kind, OpenApiParameter.HEADER, description=description, response=status
    )


JOB_ID = OpenApiParameter(
    "job_id", str, OpenApiParameter.PATH, description="From the upload's answer."
)
LAST_EVENT_ID = _header("Last-Event-ID", "Of a stream: goes on behind the event with this id.")
FOLLOW = _query("follow", bool, "As `Accept: text/event-stream`: the answer is a live stream.")
JOB_PARAMETERS = [
    JOB_ID,
    _query(
        "wait",
        int,
        "Hold the answer until the job changes or ends, for at most so many seconds (60).",
    ),
    _header("Prefer", "`wait=30`: the same as the parameter, as RFC 7240 has it."),
    _header(
        "If-None-Match",
        "The `ETag` that you have: 304 when nothing changed. With a wait, the wait is for a change "
        "against it, which new output is too. A queued job's place is part of it.",
    ),
    _told("ETag", str, "Changes with the job, its log, and its place in the queue.", status=[200]),
    _told("Retry-After", int, "When to ask again; not on a job that has ended.", status=[200]),
    _told("Preference-Applied", str, "`wait=30`, when `Prefer` asked for it.", status=[200]),
]
LOG_PARAMETERS = [
    JOB_ID,
    _query("offset", int, "Begin at this byte of the job's stream."),
    _query("length", int, "At most so many bytes."),
    _query("tail", int, "Begin with the last so many lines, instead of at an offset."),
    _query("attempt", int, "This attempt only."),
    _query("part", str, "This part only.", enum=list(LogChunk.Part.values)),
    _query("download", bool, "As a file."),
    FOLLOW,
    _header("Range", "`bytes=0-99`; of the whole log, and only while nothing of it was cut."),
    LAST_EVENT_ID,
    _told("X-Log-Next-Offset", int, "Go on with this `offset`.", status=[200, 206]),
    _told("X-Log-Size", int, "How many bytes the job has printed so far.", status=[200, 206]),
    _told("X-Log-Dropped", int, "How many bytes of these were cut.", status=[200, 206]),
]


class EventSerializer(serializers.Serializer):
    """One line of a job's timeline."""

    id = serializers.IntegerField(help_text="Grows; ask for what comes `after` it.")
    at = serializers.DateTimeField(help_text="UTC.")
    name = serializers.CharField(help_text="What happened.")
    status = serializers.ChoiceField(choices=Status.choices, help_text="The job's, from then on.")
    phase = serializers.ChoiceField(choices=Phase.choices, help_text="The job's, from then on.")
    attempt = serializers.IntegerField(allow_null=True, help_text="Which try it belongs to.")
    actor = serializers.CharField(
        allow_null=True, help_text="Who did it: a user, `worker`, `supervisor`, or `clock`."
    )
    reason = serializers.ChoiceField(
        choices=Reason.choices, allow_null=True, help_text="Why, for programs."
    )
    detail = serializers.CharField(allow_null=True, help_text="In words.")


class TimelineSerializer(serializers.Serializer):
    """What happened to a job, oldest first."""

    job_id = serializers.CharField(help_text="The job.")
    status = serializers.ChoiceField(choices=Status.choices, help_text="As it is now.")
    events = EventSerializer(many=True, help_text="At most 500.")
    next_after = serializers.IntegerField(help_text="Ask for what comes `after` it.")


class AnyAccept(BaseContentNegotiation):
    """The handler itself reads what the client accepts; errors are JSON."""

    def select_parser(self, request: Request, parsers: list) -> object:  # type: ignore[override]
        return parsers[0]

    def select_renderer(  # type: ignore[override]
        self, request: Request, renderers: list[BaseRenderer], format_suffix: str | None = None
    ) -> tuple[BaseRenderer, str]:
        return renderers[0], renderers[0].media_type


class LogsView(APIView):
    content_negotiation_class = AnyAccept
    problem_codes = ("400", "404", "416", "503")

    @extend_schema(
        operation_id="get_training_job_logs",
        summary="Read or follow a job's log",
        description=(
            "Everything that the job printed: of each attempt first the build of its environment, "
            "then the run. Offsets count bytes of that stream, cut or not. With `Accept: "
            "text/event-stream` it is followed live: `log` events whose `id` is the offset behind "
            "them, `state` when the job changes, `end` at its end. A stream that ends without "
            "`end` goes on with `Last-Event-ID`."
        ),
        tags=["Training"],
        parameters=LOG_PARAMETERS,
        responses={
            (200, "text/plain"): OpenApiResponse(OpenApiTypes.STR, description="The log."),
            (200, "text/event-stream"): OpenApiResponse(OpenApiTypes.STR, description="Live."),
            (206, "text/plain"): OpenApiResponse(OpenApiTypes.STR, description="The range."),
        },
        examples=[
            OpenApiExample(
                "Text",
                value="Training started...\nEpoch 1/10...",
                response_only=True,
                media_type="text/plain",
            ),
            OpenApiExample(
                "Live", value=STREAM_EXAMPLE, response_only=True, media_type="text/event-stream"
            ),
        ],
    )
    def get(self, request: Request, job_id: str) -> HttpResponseBase:
        asked = asked_of(request._request)
        try:
            job = following.find_job(asked, job_id)
            if following.wants_stream(asked):
                return _stream(following.position_of(asked, job, "logs"))
            return _text(following.log_text(asked, job, following.log_question(asked)))
        except Refused as refused:
            return response_of(refused.answer)


class EventsView(APIView):
    content_negotiation_class = AnyAccept
    problem_codes = ("400", "404", "503")

    @extend_schema(
        operation_id="list_training_job_events",
        summary="Read or follow a job's timeline",
        description=(
            "Every state, phase and attempt, with time, actor and reason. With `Accept: "
            "text/event-stream` it is followed live: `event` events, and `end` at the job's end."
        ),
        tags=["Training"],
        parameters=[
            JOB_ID,
            _query("after", int, "Only what comes behind the event with this id."),
            FOLLOW,
            LAST_EVENT_ID,
        ],
        responses={
            (200, "application/json"): TimelineSerializer,
            (200, "text/event-stream"): OpenApiResponse(OpenApiTypes.STR, description="Live."),
        },
        examples=[
            OpenApiExample(
                "Timeline",
                value=EVENTS_EXAMPLE,
                response_only=True,
                media_type="application/json",
            )
        ],
    )
    def get(self, request: Request, job_id: str) -> HttpResponseBase:
        asked = asked_of(request._request)
        try:
            job = following.find_job(asked, job_id)
            if following.wants_stream(asked):
                return _stream(following.position_of(asked, job, "events"))
            return response_of(following.events_answer(asked, job))
        except Refused as refused:
            return response_of(refused.answer)


def job_response(request: HttpRequest, job_id: str) -> HttpResponse:
    """The job's document with its `ETag`, or 304; nobody is held here."""
    asked = asked_of(request)
    try:
        following.wait_of(asked)
        return response_of(following.job_answer(asked, job_id))
    except Refused as refused:
        return response_of(refused.answer)


def asked_of(request: HttpRequest) -> Asked:
    headers = {name.lower(): value for name, value in request.headers.items()}
    query = {name: str(request.GET[name]) for name in request.GET}
    return Asked(request.method or "GET", request.path, query, headers)


def response_of(answer: Answer) -> HttpResponse:
    status, headers, content = answer
    return HttpResponse(content, status=status, headers=headers)


def _text(text: LogText | Answer) -> HttpResponseBase:
    if not isinstance(text, LogText):
        return response_of(text)
    pieces = (data for _, data in text.pieces(text.start))
    return StreamingHttpResponse(pieces, status=text.status, headers=text.headers)


def _stream(position: LogPosition | EventPosition) -> HttpResponseBase:
    return StreamingHttpResponse(_frames(position), headers=following.EVENT_STREAM_HEADERS)


def _frames(position: LogPosition | EventPosition) -> Iterator[bytes]:
    yield following.RECONNECT
    while True:
        frames = following.frames_after(position)
        if frames is None:
            return
        yield frames.data
        if frames.caught_up:
            return
        position = frames.position
