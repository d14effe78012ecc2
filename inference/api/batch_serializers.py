"""What a batch looks like, for the documentation; `inference/batch/document.py` makes it."""

from rest_framework import serializers

from inference.batch.states import Format, Status


class BatchFormSerializer(serializers.Serializer):
    """A file of rows, and which model predicts them."""

    file = serializers.FileField(
        help_text="CSV in UTF-8 with commas whose first line names the columns, or Parquet."
    )
    model_name = serializers.CharField(help_text="A registered model.")
    model_version = serializers.CharField(
        required=False, help_text="A number, an alias, or `latest`, which it is without it."
    )
    model_alias = serializers.CharField(
        required=False, help_text="The alias of the version, instead of `model_version`."
    )
    return_probabilities = serializers.BooleanField(
        required=False, default=False, help_text="A column `probability_<class>` for each class."
    )
    include_inputs = serializers.BooleanField(
        required=False, default=False, help_text="The file's own columns before the predictions."
    )
    format = serializers.ChoiceField(
        choices=Format.choices,
        required=False,
        default=Format.CSV,
        help_text="What the predictions are written as.",
    )
    escape_formulas = serializers.BooleanField(
        required=False,
        default=True,
        help_text=(
            "In CSV, text that a spreadsheet would take for a formula begins with an apostrophe."
        ),
    )


class BatchErrorSerializer(serializers.Serializer):
    """One place of the file that is wrong."""

    field = serializers.CharField(help_text="The column, or `file`.")
    detail = serializers.CharField(help_text="The row, from 0, and what is wrong with it.")


class BatchSerializer(serializers.Serializer):
    """A batch: what was sent, how far it is, and why it ended."""

    batch_id = serializers.UUIDField(help_text="Its id.")
    status = serializers.ChoiceField(choices=Status.choices, help_text="What it is.")
    phase = serializers.CharField(help_text="What is being done while it waits or runs.")
    position = serializers.IntegerField(
        allow_null=True, help_text="Its place among those that wait; null when it does not."
    )
    model_name = serializers.CharField(help_text="The model.")
    model_version = serializers.CharField(help_text="The version, as it was when it was accepted.")
    file_name = serializers.CharField(help_text="What the file was called; may be empty.")
    input_format = serializers.ChoiceField(
        choices=Format.choices, help_text="What the file is, by its content."
    )
    input_bytes = serializers.IntegerField(help_text="The size of the file.")
    format = serializers.ChoiceField(
        choices=Format.choices, help_text="What the predictions are written as."
    )
    return_probabilities = serializers.BooleanField(help_text="As it was asked for.")
    include_inputs = serializers.BooleanField(help_text="As it was asked for.")
    escape_formulas = serializers.BooleanField(help_text="As it was asked for.")
    rows_done = serializers.IntegerField(help_text="Rows that are predicted.")
    rows_total = serializers.IntegerField(
        allow_null=True, help_text="Rows of the file; null until all of it was checked."
    )
    share_done = serializers.FloatField(help_text="How much of the phase is done, from 0 to 1.")
    reason = serializers.CharField(
        help_text=(
            "Why it ended, as `GET /mlops/inference/reasons` lists it in `batch_reasons`; of one "
            "that waits again, why the attempt before did."
        )
    )
    error = serializers.CharField(help_text="The reason in a sentence.")
    hint = serializers.CharField(help_text="What to do about it.")
    errors = BatchErrorSerializer(  # type: ignore[assignment]
        many=True, help_text="What is wrong in the file, 20 places at most."
    )
    log_tail = serializers.CharField(help_text="The last lines that the model printed.")
    attempts = serializers.IntegerField(help_text="How often it was begun.")
    memory_mb = serializers.IntegerField(allow_null=True, help_text="What its container may have.")
    output_bytes = serializers.IntegerField(
        allow_null=True, help_text="The size of the predictions."
    )
    predictions = serializers.CharField(allow_null=True, help_text="The path to fetch them at.")
    cancel_requested_at = serializers.DateTimeField(allow_null=True, help_text="When, UTC.")
    created_at = serializers.DateTimeField(help_text="When it was accepted, UTC.")
    started_at = serializers.DateTimeField(allow_null=True, help_text="The newest attempt's begin.")
    ended_at = serializers.DateTimeField(allow_null=True, help_text="When it ended, UTC.")
    kept_until = serializers.DateTimeField(
        allow_null=True, help_text="When it is deleted, with its predictions; null: never."
    )


class BatchListSerializer(serializers.Serializer):
    """A page of batches, the newest first."""

    batches = BatchSerializer(many=True, help_text="At most `limit`.")
    next = serializers.CharField(
        allow_null=True, help_text="The `cursor` of the next page; null on the last one."
    )
