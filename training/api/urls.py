"""Paths below /mlops/training/; each is served with and without a trailing slash."""

from django.urls import re_path

from training.api import follow, list_view, reference_views, sandbox_view, validate_view, views

JOB = r"^jobs/(?P<job_id>[^/]+)"

urlpatterns = [
    re_path(r"^upload/?$", views.UploadView.as_view(), name="upload"),
    re_path(r"^validate/?$", validate_view.ValidateView.as_view(), name="validate"),
    re_path(r"^reasons/?$", reference_views.ReasonsView.as_view(), name="reasons"),
    re_path(r"^limits/?$", reference_views.LimitsView.as_view(), name="limits"),
    re_path(r"^jobs/?$", list_view.JobListView.as_view(), name="jobs"),
    re_path(JOB + r"/?$", views.JobView.as_view(), name="job"),
    re_path(JOB + r"/cancel/?$", views.CancelView.as_view(), name="cancel"),
    re_path(JOB + r"/rerun/?$", views.RerunView.as_view(), name="rerun"),
    re_path(JOB + r"/script/?$", views.ScriptView.as_view(), name="script"),
    re_path(JOB + r"/environment/?$", views.EnvironmentView.as_view(), name="environment"),
    re_path(
        JOB + r"/environment/pylock\.toml/?$", views.PylockView.as_view(), name="environment_pylock"
    ),
    re_path(JOB + r"/sandbox/?$", sandbox_view.SandboxView.as_view(), name="sandbox"),
    re_path(JOB + r"/logs/?$", follow.LogsView.as_view(), name="logs"),
    re_path(JOB + r"/events/?$", follow.EventsView.as_view(), name="events"),
]
