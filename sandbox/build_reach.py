"""What build containers may reach: the package indexes, or the proxy on the way to them."""

from urllib.parse import urlsplit

from sandbox.build_rules import BuildRules
from sandbox.firewall import AddressInvalid, BuildReach, Reachable, is_internal, reachable_url

PORTS = {"http": 80, "https": 443}


def reach_of(rules: BuildRules, *, resolvers: tuple[str, ...]) -> BuildReach:
    """Internal addresses and proxies one by one, each with its port; the internet by the ports of
    indexes that are there: their files are on other servers, under addresses that change.

    A server whose name is not found stops builds, which say so, and nothing else.
    """
    named: list[Reachable] = []
    ports: set[int] = set()
    for proxy in rules.proxies_used():
        named += _found(proxy)
    for index in rules.direct_indexes():
        found = _found(index)
        named += [each for each in found if is_internal(each)]
        if not found or not all(is_internal(each) for each in found):
            ports.add(_port(index))
    # Whoever reaches nothing has nobody to ask for.
    asked = resolvers if named or ports else ()
    return BuildReach(tuple(dict.fromkeys(named)), tuple(sorted(ports)), asked)


def _found(url: str) -> tuple[Reachable, ...]:
    try:
        return reachable_url(url)
    except AddressInvalid:
        return ()


def _port(url: str) -> int:
    parts = urlsplit(url)
    return parts.port or PORTS[parts.scheme]
