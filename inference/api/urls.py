"""The path of predictions, with or without a trailing slash."""

from django.urls import re_path

from inference.api.views import InferenceView

urlpatterns = [re_path(r"^inference/?$", InferenceView.as_view(), name="inference")]
