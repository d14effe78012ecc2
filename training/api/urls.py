"""Paths below /mlops/training/; each is served with and without a trailing slash."""

from django.urls import re_path

from training.api import follow, views

urlpatterns = [
    re_path(r"^upload/?$", views.UploadView.as_view(), name="upload"),
    re_path(r"^jobs/(?P<job_id>[^/]+)/?$", views.JobView.as_view(), name="job"),
    re_path(r"^jobs/(?P<job_id>[^/]+)/cancel/?$", views.CancelView.as_view(), name="cancel"),
    re_path(r"^jobs/(?P<job_id>[^/]+)/logs/?$", follow.LogsView.as_view(), name="logs"),
    re_path(r"^jobs/(?P<job_id>[^/]+)/events/?$", follow.EventsView.as_view(), name="events"),
]
