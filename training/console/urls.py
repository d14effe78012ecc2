"""Pages of jobs whose address is not below that of one job."""

from collections.abc import Callable
from typing import Any

from django.contrib.admin import AdminSite
from django.http import HttpRequest, HttpResponse
from django.urls import URLPattern, path

from training.console import compare, new_job

Page = Callable[[HttpRequest, dict[str, Any]], HttpResponse]


def paths(site: AdminSite) -> list[URLPattern]:
    """Below the site's own path; each page checks what its visitor may do."""

    def framed(page: Page) -> Callable[[HttpRequest], HttpResponse]:
        return site.admin_view(lambda request: page(request, site.each_context(request)))

    return [
        path("jobs/new/", framed(new_job.new_page), name="job_new"),
        path("jobs/new/send/", framed(new_job.send), name="job_new_send"),
        path("jobs/new/dry-run/", site.admin_view(new_job.dry_run_piece), name="job_new_dry_run"),
        path("jobs/new/example/", site.admin_view(new_job.run_example), name="job_run_example"),
        path("jobs/compare/", framed(compare.compare_page), name="job_compare"),
        path("jobs/compare/chosen/", site.admin_view(compare.compare_chosen), name="job_chosen"),
    ]
