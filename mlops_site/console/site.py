"""The console: Django's admin with a frame, a navigation and a first page of its own."""

from typing import Any

from django.conf import settings
from django.contrib.admin import AdminSite
from django.contrib.auth.forms import AuthenticationForm
from django.contrib.auth.models import User
from django.core.exceptions import ValidationError
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.urls import URLPattern, URLResolver, path

from inference.console import urls as model_pages
from mlops_site.console import audit_page, features, home, queue, settings_page
from mlops_site.console.nav import nav_of
from mlops_site.rights import may_open_console, role_of
from registry import audit
from training.console import urls as job_pages


class ConsoleLogin(AuthenticationForm):
    """Says the same of a wrong name, a wrong password and somebody who may not come in."""

    error_messages = {
        "invalid_login": "Name or password is wrong, or this account may not open the console.",
        "inactive": "Name or password is wrong, or this account may not open the console.",
    }

    def confirm_login_allowed(self, user: User) -> None:
        super().confirm_login_allowed(user)
        if not may_open_console(user):
            audit.record_failed_login(user.get_username())
            raise ValidationError(self.error_messages["invalid_login"], code="invalid_login")


class ConsoleSite(AdminSite):
    site_header = site_title = "MLOps engine"
    # "View site" would lead to the documentation, which has a link of its own.
    site_url = None
    # The navigation is in the frame.
    enable_nav_sidebar = False
    login_form = ConsoleLogin

    def has_permission(self, request: HttpRequest) -> bool:
        return may_open_console(request.user)

    def each_context(self, request: HttpRequest) -> dict[str, Any]:
        context = super().each_context(request)
        context |= {"platform_version": settings.PLATFORM_VERSION}
        if context["has_permission"]:
            context |= {"nav": nav_of(request), "role": role_of(request.user)}
        return context

    def get_urls(self) -> list[URLPattern | URLResolver]:
        own = [
            path("now/", self.admin_view(home.now), name="home_now"),
            path("day/", self.admin_view(home.day), name="home_day"),
            *features.urls(self),
            *model_pages.paths(self),
            *job_pages.paths(self),
            path("queue/", self.admin_view(self.queue_view), name="queue"),
            path("queue/now/", self.admin_view(queue.queue_now), name="queue_now"),
            path("queue/ask/", self.admin_view(self.queue_ask_view), name="queue_ask"),
            path("queue/act/", self.admin_view(queue.queue_act), name="queue_act"),
            path("settings/", self.admin_view(self.settings_view), name="settings"),
            path("audit/", self.admin_view(self.audit_view), name="audit"),
            path("audit/csv/", self.admin_view(audit_page.audit_csv), name="audit_csv"),
        ]
        return [*own, *super().get_urls()]

    def queue_view(self, request: HttpRequest) -> HttpResponse:
        return queue.queue_page(request, self.each_context(request))

    def queue_ask_view(self, request: HttpRequest) -> HttpResponse:
        return queue.queue_ask(request, self.each_context(request))

    def settings_view(self, request: HttpRequest) -> HttpResponse:
        return settings_page.settings_page(request, self.each_context(request))

    def audit_view(self, request: HttpRequest) -> HttpResponse:
        return audit_page.audit_page(request, self.each_context(request))

    def index(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> TemplateResponse:
        context = {**self.each_context(request), **(extra_context or {})}
        request.current_app = self.name
        if not home.may_see(request):
            return TemplateResponse(request, "console/no_rights.html", context)
        context |= home.page(request)
        return TemplateResponse(request, "admin/index.html", context)
