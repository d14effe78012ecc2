"""Paths below /mlops/training/; each is served with and without a trailing slash."""

from django.urls import re_path

from training.api import list_view, views

urlpatterns = [
    re_path(r"^upload/?$", views.UploadView.as_view(), name="upload"),
    re_path(r"^jobs/?$", list_view.JobListView.as_view(), name="jobs"),
    re_path(r"^jobs/(?P<job_id>[^/]+)/?$", views.JobView.as_view(), name="job"),
    re_path(r"^jobs/(?P<job_id>[^/]+)/cancel/?$", views.CancelView.as_view(), name="cancel"),
]
