"""The HTTP of admission: whether new work is begun, and the word of an operator that it is not."""

from collections.abc import Callable
from typing import Any

from drf_spectacular.utils import OpenApiExample, OpenApiResponse, extend_schema
from rest_framework import serializers
from rest_framework.authentication import BasicAuthentication, SessionAuthentication
from rest_framework.permissions import SAFE_METHODS, BasePermission
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from mlops_site.admission import NowHeld, held_now
from mlops_site.rights import HOLDS
from registry.holds import Admission, HeldBy
from registry.models import WHY_CHARACTERS
from training.services import admission


class HeldSerializer(serializers.Serializer):
    """By whose word nothing new is begun."""

    by = serializers.CharField(help_text="Who said so.")
    since = serializers.DateTimeField(help_text="When, UTC.")
    why = serializers.CharField(help_text="What they said about it; may be empty.")


class HoldsSerializer(serializers.Serializer):
    """Whether what is accepted is started. Null: nobody said otherwise."""

    paused = HeldSerializer(
        allow_null=True, help_text="No job and no batch is started; what is sent waits."
    )
    draining = HeldSerializer(
        allow_null=True, help_text="Nothing that has an end is begun, builds included."
    )


class LeftSerializer(serializers.Serializer):
    """What still goes on to its end."""

    jobs = serializers.IntegerField(help_text="Jobs that run, or are being registered.")
    batches = serializers.IntegerField(help_text="Batch predictions that run.")
    builds = serializers.IntegerField(help_text="Environments that are built or resolved.")


class AdmissionSerializer(HoldsSerializer):
    """Whether new work is begun, and what is left of the old."""

    waiting = serializers.IntegerField(help_text="Jobs that wait.")
    left = LeftSerializer(help_text="What still goes on to its end.")
    drained = serializers.BooleanField(
        help_text="It is being drained and nothing is left: the machine may be stopped."
    )


class AskedSerializer(serializers.Serializer):
    """What is left out stays as it is."""

    paused = serializers.BooleanField(required=False, help_text="Whether admission is paused.")
    draining = serializers.BooleanField(
        required=False, help_text="Whether the worker is being drained."
    )
    why = serializers.CharField(
        required=False,
        default="",
        allow_blank=True,
        max_length=WHY_CHARACTERS,
        help_text="Shown to everybody who looks.",
    )


class MaySetAdmission(BasePermission):
    """Everybody may look; to change it takes an operator."""

    def has_permission(self, request: Request, view: Any) -> bool:
        if request.method in SAFE_METHODS:
            return True
        return request.user is not None and request.user.has_perm(HOLDS)


HELD = {"by": "olga", "since": "2025-10-23T10:00:00Z", "why": "The disk is replaced."}
OPEN_EXAMPLE = {
    "paused": None,
    "draining": None,
    "waiting": 0,
    "left": {"jobs": 2, "batches": 0, "builds": 0},
    "drained": False,
}
PAUSED_EXAMPLE = {**OPEN_EXAMPLE, "paused": HELD, "waiting": 3}


class AdmissionView(APIView):
    authentication_classes = [BasicAuthentication, SessionAuthentication]
    permission_classes = [MaySetAdmission]
    problem_codes = {"GET": ("401",), "PUT": ("400", "401", "403")}

    @extend_schema(
        operation_id="get_admission",
        summary="Look at whether new work is begun",
        description=(
            "Who paused admission or drains the worker, since when and why, and what is left."
        ),
        tags=["System"],
        responses={200: OpenApiResponse(AdmissionSerializer, description="Request successful")},
        examples=[
            OpenApiExample(
                "Paused", value=PAUSED_EXAMPLE, response_only=True, status_codes=["200"]
            ),
            OpenApiExample("Open", value=OPEN_EXAMPLE, response_only=True, status_codes=["200"]),
        ],
    )
    def get(self, request: Request) -> Response:
        return Response(_document(held_now()))

    @extend_schema(
        operation_id="set_admission",
        summary="Pause admission or drain the worker",
        description=(
            "While it is paused jobs and batches are accepted and wait, and none is started; what "
            "runs goes on. A worker that is drained begins no build either. Models are served in "
            "both. An operator's right, with name and password (HTTP Basic)."
        ),
        tags=["System"],
        request=AskedSerializer,
        responses={200: OpenApiResponse(AdmissionSerializer, description="As it is from now on")},
        examples=[
            OpenApiExample(
                "Pause", value={"paused": True, "why": "The disk is replaced."}, request_only=True
            ),
            OpenApiExample(
                "Paused", value=PAUSED_EXAMPLE, response_only=True, status_codes=["200"]
            ),
        ],
    )
    def put(self, request: Request) -> Response:
        asked = AskedSerializer(data=request.data)
        asked.is_valid(raise_exception=True)
        wanted, actor = asked.validated_data, request.user.get_username()
        for name, (hold, let_go) in SWITCHES.items():
            if name not in wanted:
                continue
            if wanted[name]:
                hold(actor=actor, why=wanted["why"])
            else:
                let_go(actor=actor)
        return Response(_document(held_now()))


SWITCHES: dict[str, tuple[Callable[..., object], Callable[..., object]]] = {
    "paused": (admission.pause, admission.resume),
    "draining": (admission.drain, admission.undrain),
}


def holds_document(told: Admission | None) -> dict[str, Any] | None:
    """What the other documents say of it; None while the database does not answer."""
    if told is None:
        return None
    return {"paused": _held(told.paused), "draining": _held(told.draining)}


def _document(now: NowHeld) -> dict[str, Any]:
    left = now.left
    return {
        **(holds_document(now.admission) or {}),
        "waiting": now.waiting,
        "left": {"jobs": left.jobs, "batches": left.batches, "builds": left.builds},
        "drained": now.is_drained,
    }


def _held(held: HeldBy | None) -> dict[str, Any] | None:
    return {"by": held.by, "since": held.since, "why": held.why} if held else None
