"""The Django application that ties the rooms together: settings, errors, status and health."""

from django.apps import AppConfig
from django.contrib import admin


class SiteConfig(AppConfig):
    name = "mlops_site"
    verbose_name = "Platform"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        # These need the loaded app registry; connecting receivers is what the second is for.
        from django_q.models import Failure, OrmQ, Schedule, Success  # noqa: PLC0415

        from inference import containers, engine_room  # noqa: PLC0415
        from inference.services import batches, pool  # noqa: PLC0415
        from mlops_site import account_audit, receivers  # noqa: F401, PLC0415
        from training.services import environment_needs, environments, network  # noqa: PLC0415

        environment_needs.also_needed_by(pool.environments_in_use)
        environment_needs.also_needed_by(batches.environments_in_use)
        environment_needs.also_kept_for(pool.environments_served)
        containers.find_locks_with(environments.lock_of)
        engine_room.hold_network_with(
            before_build=network.ensure_for_builds, before_start=network.problem_of_servers
        )
        # Their pages unpickle what tasks returned, offer to add tasks, and cannot read the queue:
        # it is signed with a key that the web process does not have.
        for model in (Failure, OrmQ, Schedule, Success):
            if admin.site.is_registered(model):
                admin.site.unregister(model)
