"""What jobs and builds may reach, from the settings: for the firewall, and for the sandboxes."""

from functools import cache
from urllib.parse import urlsplit

from django.conf import settings

from sandbox import firewall
from sandbox.build_reach import reach_of
from sandbox.container import NO_RESOLVER
from sandbox.firewall import Policy
from training.states import Network

LOCAL_NAMES = ("localhost", "127.0.0.1")


def policy() -> Policy:
    """What the settings say. Raises AddressInvalid."""
    proxy = firewall.reachable_url(settings.JOB_PROXY) if settings.JOB_PROXY else ()
    return Policy(
        installation_id=settings.INSTALLATION_ID,
        always=firewall.reachable_url(settings.MLFLOW_TRACKING_URI),
        allowed=(*firewall.read_allowed(settings.JOB_ALLOWED_ADDRESSES), *proxy),
        resolvers=resolvers(Network.INTERNET),
        builds=reach_of(settings.BUILD_RULES, resolvers=_host_resolvers()),
    )


def docker_network(network: str) -> str:
    return settings.JOBS_NETWORK if network == Network.INTERNET else settings.OFFLINE_NETWORK


def resolvers(network: str) -> tuple[str, ...]:
    """Whom a job asks for names; empty: whom the engine's host asks."""
    if network != Network.INTERNET:
        return (NO_RESOLVER,)
    return tuple(settings.JOB_RESOLVERS) or _host_resolvers()


def proxy_variables(network: str) -> dict[str, str]:
    """The operator's way out, for a job that has one; MLflow is never asked through it."""
    if not settings.JOB_PROXY or network != Network.INTERNET:
        return {}
    direct = [urlsplit(settings.MLFLOW_TRACKING_URI).hostname or "", *LOCAL_NAMES]
    direct += [str(each.network) for each in firewall.read_allowed(settings.JOB_ALLOWED_ADDRESSES)]
    values = {
        "HTTP_PROXY": settings.JOB_PROXY,
        "HTTPS_PROXY": settings.JOB_PROXY,
        "NO_PROXY": ",".join(direct),
    }
    return {**values, **{name.lower(): value for name, value in values.items()}}


@cache
def _host_resolvers() -> tuple[str, ...]:
    return firewall.host_resolvers()
