"""`GET /mlops/training/jobs`: pages of jobs, newest first."""

from typing import Any

from django.http import QueryDict
from drf_spectacular.utils import OpenApiExample, OpenApiParameter, OpenApiResponse, extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from registry.api.examples import problem_example
from registry.list_queries import LIMIT_DEFAULT, LIMIT_MAX
from training.api.examples import JOB_EXAMPLE
from training.api.queries import cursor_of, read_query
from training.api.serializers import JobRowSerializer, row_document
from training.facts import facts_of
from training.listing import Place, page_of_jobs
from training.states import Phase, Reason, Status

PATH = "/mlops/training/jobs"
ROW_EXAMPLE = {name: value for name, value in JOB_EXAMPLE.items() if name != "logs"}
PAGE_EXAMPLE = {
    "jobs": [ROW_EXAMPLE],
    "next": f"{PATH}?status=completed&limit=1&cursor=WyIyMDI1LTEwLTIzVDEw",
}
BAD_STATUS_EXAMPLE = {
    "type": "about:blank",
    "title": "Bad Request",
    "status": 400,
    "detail": "The request is not valid. status: There is no 'faild'.",
    "instance": PATH,
    "code": "invalid_parameters",
    "errors": [
        {
            "field": "status",
            "detail": "There is no 'faild'.",
            "hint": f"Send one of: {', '.join(Status.values)}.",
        }
    ],
}


class JobPageSerializer(serializers.Serializer):
    """A page of jobs."""

    jobs = JobRowSerializer(many=True, help_text="Newest first.")
    next = serializers.CharField(
        allow_null=True, help_text="The path of the next page; null on the last one."
    )


def _query(name: str, description: str, **options: Any) -> OpenApiParameter:
    kind = options.pop("type", str)
    return OpenApiParameter(name, kind, OpenApiParameter.QUERY, description=description, **options)


class JobListView(APIView):
    problem_codes = ("400",)

    @extend_schema(
        operation_id="list_training_jobs",
        summary="List training jobs",
        description=(
            "Newest first, a page at a time. Filters are combined: a job must fit all of them. "
            "`next` is the path of the next page, and so is the `Link` header; a page costs the "
            "same however many jobs there are. Filters that are frequent alone and rare together "
            "may give a short page, even an empty one: only a `next` of null is the end."
        ),
        tags=["Training"],
        parameters=[
            _query("status", "What the contract calls status.", enum=Status.values),
            _query("phase", "What the job is doing inside its status.", enum=Phase.values),
            _query("reason", "Why the job ended.", enum=Reason.values),
            _query("experiment", "The experiment's whole name."),
            _query("model", "The model's whole name."),
            _query("owner", "Who sent the job."),
            _query("environment", "The key of the environment that the job runs in."),
            _query("tag", "`NAME=VALUE`, as in `tag=team=growth`; may be repeated.", many=True),
            _query(
                "text",
                "Whole words of script name, experiment, model, owner and tag values; or a job's "
                "id, whole or its first eight characters and more.",
            ),
            _query("created_after", "ISO 8601; UTC without a zone. This moment counts."),
            _query("created_before", "ISO 8601; UTC without a zone. This moment does not count."),
            _query(
                "limit",
                f"Jobs on a page, 1 to {LIMIT_MAX}; {LIMIT_DEFAULT} without it.",
                type=int,
            ),
            _query("cursor", "From the `next` of an earlier answer."),
            OpenApiParameter(
                "Link",
                str,
                OpenApiParameter.HEADER,
                response=[200],
                description='The next page, as `<path>; rel="next"`.',
            ),
        ],
        responses={200: OpenApiResponse(JobPageSerializer, description="Request successful")},
        examples=[
            OpenApiExample("A page", value=PAGE_EXAMPLE, response_only=True, status_codes=["200"]),
            problem_example("Unknown status", BAD_STATUS_EXAMPLE, "400"),
        ],
    )
    def get(self, request: Request) -> Response:
        query = read_query(request.query_params)
        page = page_of_jobs(query.wanted, limit=query.limit, after=query.after)
        facts = facts_of(page.jobs)
        path = _next_path(request.query_params, page.next_place)
        document = {
            "jobs": [row_document(job, facts[job.pk]) for job in page.jobs],
            "next": path,
        }
        headers = {"Link": f'<{path}>; rel="next"'} if path else {}
        return Response(document, headers=headers)


def _next_path(parameters: QueryDict, place: Place | None) -> str | None:
    if place is None:
        return None
    following = parameters.copy()
    following["cursor"] = cursor_of(place)
    return f"{PATH}?{following.urlencode()}"
