"""The HTTP of batches. Uploads and downloads are answered in `inference.batch.door` by the web
process; here they are documented, and answered for servers without ASGI."""

from django.http import FileResponse, HttpResponse
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiExample, OpenApiParameter, OpenApiResponse, extend_schema
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from inference.api.actor import actor_of
from inference.api.batch_examples import (
    ACCEPTED_EXAMPLE,
    BAD_STATUS_EXAMPLE,
    CANCELLED_EXAMPLE,
    CANCELLING_EXAMPLE,
    COMPLETED_EXAMPLE,
    ENDED_EXAMPLE,
    FAILED_EXAMPLE,
    INVALID_EXAMPLE,
    LIST_EXAMPLE,
    NO_SPACE_EXAMPLE,
    NOT_COMPLETED_EXAMPLE,
    RUNNING_EXAMPLE,
    TOO_LARGE_EXAMPLE,
    TOO_MANY_EXAMPLE,
    UNKNOWN_EXAMPLE,
)
from inference.api.batch_query import cursor_of, read_query
from inference.api.batch_serializers import (
    BatchFormSerializer,
    BatchListSerializer,
    BatchSerializer,
)
from inference.batch import door, files
from inference.batch.document import document_of
from inference.batch.states import Status
from inference.refusals import Refused
from inference.services import batches
from registry.api.examples import problem_example
from registry.list_queries import LIMIT_DEFAULT, LIMIT_MAX

BATCH_ID = OpenApiParameter("batch_id", str, OpenApiParameter.PATH, description="The batch's id.")
LOCATION = OpenApiParameter(
    "Location", str, OpenApiParameter.HEADER, response=[202], description="The path of the batch."
)
LIST_PARAMETERS = [
    OpenApiParameter("status", str, enum=Status.values, description="Only those with it."),
    OpenApiParameter("model", str, description="Only those of this model, by its whole name."),
    OpenApiParameter("limit", int, description=f"1 to {LIMIT_MAX}; {LIMIT_DEFAULT} without it."),
    OpenApiParameter("cursor", str, description="The `next` of the page before."),
]
FORM_EXAMPLE = {
    "file": "(the file)",
    "model_name": "churn_predictor",
    "model_version": "champion",
    "return_probabilities": True,
}


class BatchListView(APIView):
    parser_classes = []
    problem_codes = {"GET": ("400",), "POST": ("400", "404", "408", "413", "415", "429", "503")}

    @extend_schema(
        operation_id="list_batches",
        summary="List batch predictions",
        description="The newest first, a page at a time.",
        tags=["Batch predictions"],
        parameters=LIST_PARAMETERS,
        responses={200: OpenApiResponse(BatchListSerializer, description="Request successful")},
        examples=[
            OpenApiExample("Batches", value=LIST_EXAMPLE, response_only=True, status_codes=["200"]),
            problem_example("Unknown status", BAD_STATUS_EXAMPLE, "400"),
        ],
    )
    def get(self, request: Request) -> Response:
        asked = read_query(request.query_params)
        found = batches.page(
            status=asked.status,
            model_name=asked.model_name,
            limit=asked.limit + 1,
            after=asked.after,
        )
        shown = found[: asked.limit]
        goes_on = len(found) > asked.limit
        return Response(
            {
                "batches": [document_of(batch) for batch in shown],
                "next": cursor_of(shown[-1]) if goes_on else None,
            }
        )

    @extend_schema(
        operation_id="create_batch",
        summary="Predict a file",
        description=(
            "Answers at once; ask for the batch to follow it. All of the file is checked before "
            "the first row is predicted. Rows keep their order, and each prediction is the one "
            "that `POST /mlops/inference` would give. The file may also be the body itself "
            "(`text/csv`, `application/vnd.apache.parquet`), with the fields in the query. Parquet "
            "is read where the model's environment has pyarrow."
        ),
        tags=["Batch predictions"],
        parameters=[LOCATION],
        request={
            "multipart/form-data": BatchFormSerializer,
            "text/csv": OpenApiTypes.BINARY,
            "application/vnd.apache.parquet": OpenApiTypes.BINARY,
        },
        responses={202: OpenApiResponse(BatchSerializer, description="It waits for its turn")},
        examples=[
            OpenApiExample(
                "A form", value=FORM_EXAMPLE, request_only=True, media_type="multipart/form-data"
            ),
            OpenApiExample(
                "Accepted", value=ACCEPTED_EXAMPLE, response_only=True, status_codes=["202"]
            ),
            problem_example("A field is missing", INVALID_EXAMPLE, "400"),
            problem_example("The file is too large", TOO_LARGE_EXAMPLE, "413"),
            problem_example("Too many wait", TOO_MANY_EXAMPLE, "429"),
            problem_example("No room on the disk", NO_SPACE_EXAMPLE, "503"),
        ],
    )
    def post(self, request: Request) -> HttpResponse:
        plain = request._request
        query = {name: plain.GET.getlist(name) for name in plain.GET}
        try:
            with files.upload_folder() as folder:
                body = folder / "body"
                body.write_bytes(plain.body)
                status, told, content = door.accept(
                    body,
                    plain.headers.get("Content-Type", ""),
                    query,
                    folder=folder,
                    owner=actor_of(request),
                )
        except Refused as refused:
            status, told, content = refused.problem.answer(instance=request.path)
        return HttpResponse(content, status=status, headers=told)


class BatchView(APIView):
    problem_codes = ("404",)

    @extend_schema(
        operation_id="get_batch",
        summary="Look at a batch prediction",
        description="What it is doing, how many rows are done, and why it ended.",
        tags=["Batch predictions"],
        parameters=[BATCH_ID],
        responses={200: OpenApiResponse(BatchSerializer, description="Request successful")},
        examples=[
            OpenApiExample(
                "Running", value=RUNNING_EXAMPLE, response_only=True, status_codes=["200"]
            ),
            OpenApiExample(
                "Completed", value=COMPLETED_EXAMPLE, response_only=True, status_codes=["200"]
            ),
            OpenApiExample(
                "A bad value", value=FAILED_EXAMPLE, response_only=True, status_codes=["200"]
            ),
            problem_example("Unknown batch", UNKNOWN_EXAMPLE, "404"),
        ],
    )
    def get(self, request: Request, batch_id: str) -> Response:
        return Response(document_of(batches.look(batch_id)))


class BatchCancelView(APIView):
    problem_codes = ("404", "409")

    @extend_schema(
        operation_id="cancel_batch",
        summary="Cancel a batch prediction",
        description=(
            "One that waits is cancelled at once; one that runs when its container is gone. Asking "
            "twice is harmless; one that has ended answers 409."
        ),
        tags=["Batch predictions"],
        parameters=[BATCH_ID],
        request=None,
        responses={
            200: OpenApiResponse(BatchSerializer, description="It is cancelled"),
            202: OpenApiResponse(BatchSerializer, description="It is being stopped"),
        },
        examples=[
            OpenApiExample(
                "It waited", value=CANCELLED_EXAMPLE, response_only=True, status_codes=["200"]
            ),
            OpenApiExample(
                "It runs", value=CANCELLING_EXAMPLE, response_only=True, status_codes=["202"]
            ),
            problem_example("Unknown batch", UNKNOWN_EXAMPLE, "404"),
            problem_example("It has ended", ENDED_EXAMPLE, "409"),
        ],
    )
    def post(self, request: Request, batch_id: str) -> Response:
        cancelling = batches.cancel(batch_id)
        return Response(document_of(cancelling.batch), status=200 if cancelling.final else 202)


class BatchPredictionsView(APIView):
    problem_codes = ("404", "409")

    @extend_schema(
        operation_id="get_batch_predictions",
        summary="Fetch the predictions of a batch",
        description=(
            "A row for each row of the file, in its order: `prediction`, and as asked for "
            "`probability_<class>` for each class and the file's own columns before."
        ),
        tags=["Batch predictions"],
        parameters=[BATCH_ID],
        responses={
            (200, "text/csv"): OpenApiResponse(OpenApiTypes.BINARY, description="The file"),
            (200, "application/vnd.apache.parquet"): OpenApiResponse(
                OpenApiTypes.BINARY, description="The file"
            ),
        },
        examples=[
            problem_example("Unknown batch", UNKNOWN_EXAMPLE, "404"),
            problem_example("Not done yet", NOT_COMPLETED_EXAMPLE, "409"),
        ],
    )
    def get(self, request: Request, batch_id: str) -> FileResponse:
        batch, path = batches.predictions_of(batch_id)
        answer = FileResponse(
            path.open("rb"),
            as_attachment=True,
            filename=path.name,
            content_type=door.MEDIA_TYPES[batch.output_format],
        )
        answer.headers["X-Content-Type-Options"] = "nosniff"
        return answer
