"""What a prediction looks like, for the documentation; the gateway itself reads plain JSON."""

from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

COLUMNS = {
    "type": "object",
    "description": "Columns: each name with the list of its values.",
    "additionalProperties": {"type": "array", "items": {}},
}
RECORDS = {
    "type": "array",
    "description": "Records: one object for each row.",
    "items": {"type": "object", "additionalProperties": {}},
}
ROWS = {
    "type": "array",
    "description": "Rows: one list of values for each, in the model's order of columns.",
    "items": {"type": "array", "items": {}},
}
LABELS = {"type": "array", "items": {}}


@extend_schema_field({"oneOf": [COLUMNS, RECORDS, ROWS]})
class InputsField(serializers.JSONField):
    """Three shapes of one table."""


@extend_schema_field({"oneOf": [COLUMNS, RECORDS]})
class EntitiesField(serializers.JSONField):
    """Two shapes of one table."""


@extend_schema_field(LABELS)
class LabelsField(serializers.JSONField):
    """Numbers, texts or booleans, as the model was trained on."""


@extend_schema_field({"oneOf": [{"type": "string"}, {"type": "integer"}, {"type": "null"}]})
class VersionField(serializers.JSONField):
    """A version number, as text or as a number; an alias; or `latest`."""


class InferenceRequestSerializer(serializers.Serializer):
    """What to predict, and with which model."""

    model_name = serializers.CharField(help_text="A registered model.")
    model_version = VersionField(
        required=False,
        help_text=(
            "The version that answers: a number, an alias such as `champion`, or `latest`; without "
            "it, the latest one that is ready."
        ),
    )
    model_alias = serializers.CharField(
        required=False,
        allow_null=True,
        help_text="The alias of the version that answers, instead of `model_version`.",
    )
    inputs = InputsField(
        required=False,
        help_text=(
            'The rows to predict, as columns `{"age": [25, 35]}`, as records '
            '`[{"age": 25}, {"age": 35}]`, or as rows `[[25], [35]]`. Missing numbers are `null`. '
            "Not needed where `entities` bring every column; beside them, columns or records, "
            "which win over features of the same name."
        ),
    )
    entities = EntitiesField(
        required=False,
        help_text=(
            "For whom features are looked up in the feature store, at most 10,000: "
            '`{"customer_id": [1, 2]}`, or `[{"customer_id": 1}, {"customer_id": 2}]`.'
        ),
    )
    feature_service = serializers.CharField(
        required=False, help_text="The feature service whose features are looked up."
    )
    feature_views = serializers.ListField(
        child=serializers.CharField(),
        required=False,
        help_text="Feature views whose features are looked up, instead of `feature_service`.",
    )
    features = serializers.ListField(
        child=serializers.CharField(),
        required=False,
        help_text="Single features, `view:feature`, instead of `feature_service`.",
    )
    missing_features = serializers.ChoiceField(
        choices=["refuse", "null"],
        required=False,
        help_text=(
            "What is done about a feature without a value: the request is refused (422), or the "
            "model gets `null`. Without it, `null` for columns that the model's signature calls "
            "optional, since its training lacked values there too."
        ),
    )
    return_features = serializers.BooleanField(
        required=False, default=False, help_text="Whether the answer has the values looked up."
    )
    return_probabilities = serializers.BooleanField(
        required=False,
        default=False,
        help_text="Whether the answer has probabilities; a model that has none answers 400.",
    )


class MissingFeatureSerializer(serializers.Serializer):
    """A feature that had no value."""

    row = serializers.IntegerField(help_text="Which row, counted from 0.")
    entity = serializers.DictField(
        child=serializers.JSONField(), help_text="For whom it was looked up."
    )
    feature = serializers.CharField(help_text="The column.")
    detail = serializers.CharField(help_text="Why there is none.")


class InferenceResponseSerializer(serializers.Serializer):
    """What the model says of each row."""

    model_name = serializers.CharField(help_text="The model that answered.")
    model_version = serializers.CharField(help_text="Its version that answered.")
    predictions = LabelsField(help_text="One label or number for each row, in their order.")
    probabilities = serializers.ListField(
        child=serializers.ListField(child=serializers.FloatField()),
        allow_null=True,
        help_text="For each row one number for each class; null when not asked for.",
    )
    classes = serializers.ListField(
        child=serializers.JSONField(),
        allow_null=True,
        help_text="The classes in the order of the probabilities; null when not asked for.",
    )
    inference_time_ms = serializers.FloatField(help_text="How long the model itself computed.")
    timestamp = serializers.DateTimeField(help_text="When the answer was made, in UTC.")
    features = serializers.DictField(
        child=serializers.ListField(child=serializers.JSONField()),
        required=False,
        help_text="The values that were looked up, by column; where `return_features` asks.",
    )
    missing_features = MissingFeatureSerializer(
        many=True,
        required=False,
        help_text="Features without a value for which the model got `null`; at most 50.",
    )
    request_id = serializers.CharField(
        help_text="As in the header `X-Request-ID`, which a client may send; logs name it too."
    )
