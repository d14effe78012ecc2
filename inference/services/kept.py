"""Which versions of a model a policy's least number of servers is for."""

from collections.abc import Mapping

from django.db.models import Max

from inference.models import AliasChange, ModelServer
from inference.services.policy import Policy


def kept_versions(known: Mapping[str, Policy]) -> dict[str, set[str]]:
    """By model, where a policy keeps any: the newest version that is known here, and each that an
    alias names, since that is what callers ask for."""
    return {name: _kept(name) for name, policy in known.items() if policy.min_servers}


def _kept(name: str) -> set[str]:
    changes = AliasChange.objects.filter(model_name=name)
    newest = changes.order_by().values("alias").annotate(last=Max("id")).values("last")
    named = set(changes.filter(pk__in=newest).exclude(version="").values_list("version", flat=True))
    versions = ModelServer.objects.filter(model_name=name).values_list("version", flat=True)
    numbers = [int(version) for version in versions if version.isdecimal()]
    return named | ({str(max(numbers))} if numbers else set())
