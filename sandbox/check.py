"""The self-test of an operator's own machine: is each container what it is meant to be?

Three questions: what the engine says of a container (`inspect`), what a process in it finds, and
what it reaches. Nothing of a job or a model is in these containers.
"""

import json
import secrets
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

from sandbox.container import OPEN_FILES, TMP_MB, Kind, SandboxSpec
from sandbox.engine import KILLED, Engine, EngineError, SandboxMismatch
from sandbox.engine_errors import mapped
from sandbox.firewall import Policy
from sandbox.network import Networks
from sandbox.probe import Subjects, probe, running
from sandbox.spec import probe_spec

PROBE_SECONDS = 60
INSIDE = ("python3", "-u", "/opt/mlops/probe_limits.py")
NO_RIGHTS = "0" * 16
FILTERED = "2"
DOCKERS_PROFILE = "docker-default"


@dataclass(frozen=True)
class Row:
    """One line of the table: of which container, what was looked at, and what was found."""

    subject: str
    what: str
    wanted: str
    got: str
    passed: bool


def check(
    engine: Engine,
    subjects: Subjects,
    *,
    policy: Policy,
    networks: Networks,
) -> tuple[Row, ...]:
    """Everything, in the order of the table. Raises EngineError, EngineUnavailable."""
    specs = {Kind.JOB: subjects.internet, Kind.BUILD: subjects.build, Kind.SERVER: subjects.server}
    info = _info(engine)
    rows = list(_engine_rows(info))
    for kind, spec in specs.items():
        rows.extend(_inspected(engine, kind, spec, info))
    with ThreadPoolExecutor(max_workers=3 * len(specs)) as pool:
        inside = [pool.submit(_inside, engine, kind, spec, info) for kind, spec in specs.items()]
        processes = [pool.submit(_processes, engine, kind, spec) for kind, spec in specs.items()]
        memory = [pool.submit(_memory, engine, kind, spec) for kind, spec in specs.items()]
        for found in inside:
            rows.extend(found.result())
        rows.extend(found.result() for found in processes)
        rows.extend(found.result() for found in memory)
    rows.extend(_network_rows(engine, subjects, policy=policy, networks=networks))
    return tuple(rows)


def _network_rows(
    engine: Engine, subjects: Subjects, *, policy: Policy, networks: Networks
) -> Iterator[Row]:
    for result in probe(engine, subjects, policy=policy, networks=networks):
        yield Row(
            subject=f"network {result.network}",
            what=f"{result.what} {result.address}",
            wanted="reached" if result.must_reach else "not reached",
            got=result.got,
            passed=result.passed,
        )


def _engine_rows(info: Mapping[str, Any]) -> Iterator[Row]:
    """What every container of this engine gets without asking."""
    options = [str(option) for option in info.get("SecurityOptions") or []]
    seccomp = next((option for option in options if "name=seccomp" in option), "none")
    filtered = seccomp != "none" and "unconfined" not in seccomp
    yield Row("engine", "seccomp profile", "a profile", seccomp, filtered)
    runtime = str(info.get("DefaultRuntime", ""))
    yield Row("engine", "default runtime", "any", runtime, bool(runtime))


def _inspected(
    engine: Engine, kind: Kind, spec: SandboxSpec, info: Mapping[str, Any]
) -> Iterator[Row]:
    named = _named(spec, INSIDE)
    try:
        container = engine.create(named)
    except SandboxMismatch as mismatch:
        for difference in mismatch.differences:
            yield Row(kind, "as the engine says", "as asked for", difference, False)
        return
    try:
        inspect = _inspect(engine, container)
    finally:
        engine.remove(container)
    for field in named.comparison(inspect):
        yield Row(kind, field.name, _short(field.wanted), _short(field.got), field.same)
    if "name=apparmor" in " ".join(info.get("SecurityOptions") or []):
        profile = str(inspect.get("AppArmorProfile", ""))
        yield Row(kind, "AppArmor", DOCKERS_PROFILE, profile, profile == DOCKERS_PROFILE)


def _inside(engine: Engine, kind: Kind, spec: SandboxSpec, info: Mapping[str, Any]) -> list[Row]:
    """Raises EngineError when the container could not say what it found."""
    code, found = _ended(engine, spec, INSIDE)
    if found is None:
        raise EngineError(f"The check of {kind} ended with {code} and said nothing.")
    limits = spec.limits
    exact = {
        "capabilities": NO_RIGHTS * 2,
        "no_new_privileges": "1",
        "root": "EROFS",
        "tmp_runs": "EACCES",
        "core": 0,
    }
    most = {
        "open_files": OPEN_FILES,
        "tmp_mb": TMP_MB,
        "scratch_mb": limits.scratch_mb,
    }
    rows = [Row(kind, "uid", "not 0", str(found["uid"]), found["uid"] != 0)]
    rows.append(_kernel_row(kind, spec, found, str(info.get("KernelVersion", ""))))
    rows += [
        Row(kind, name, str(wanted), str(found[name]), found[name] == wanted)
        for name, wanted in exact.items()
    ]
    rows += [
        Row(kind, name, f"at most {bound}", str(found[name]), 0 < found[name] <= bound)
        for name, bound in most.items()
    ]
    return rows


def _kernel_row(kind: Kind, spec: SandboxSpec, found: Mapping[str, Any], host: str) -> Row:
    """Whom a process asks: the host's kernel through a filter of calls, or one of its own."""
    if spec.has_own_kernel:
        kernel = str(found["kernel"])
        return Row(kind, "kernel", f"not the host's {host}", kernel, kernel != host)
    return Row(kind, "seccomp", FILTERED, str(found["seccomp"]), found["seccomp"] == FILTERED)


def _processes(engine: Engine, kind: Kind, spec: SandboxSpec) -> Row:
    """A kernel of its own may end with its container at the limit: that is a limit too."""
    code, found = _ended(engine, spec, (*INSIDE, "--processes"))
    wanted = f"at most {spec.limits.pids}"
    if found is None:
        return Row(kind, "processes", wanted, f"the container ended with {code}", code != 0)
    count = int(found["processes"])
    return Row(kind, "processes", wanted, str(count), 0 < count <= spec.limits.pids)


def _ended(
    engine: Engine, spec: SandboxSpec, command: Iterable[str]
) -> tuple[int, Mapping[str, Any] | None]:
    """A probe's exit code, and what it found; None when it could not say."""
    with running(engine, _named(spec, command)) as container:
        code = engine.wait(container, timeout_seconds=PROBE_SECONDS)
        said = engine.read_logs(container).decode(errors="replace").strip()
    try:
        return code, json.loads(said.splitlines()[-1])
    except (ValueError, IndexError):
        return code, None


def _memory(engine: Engine, kind: Kind, spec: SandboxSpec) -> Row:
    """Nobody else kills it: its exit code says so too where the engine has not heard of memory."""
    with running(engine, _named(spec, (*INSIDE, "--memory"))) as container:
        code = engine.wait(container, timeout_seconds=PROBE_SECONDS)
    killed = code in KILLED
    got = "ended" if killed else f"ended by itself with {code}"
    return Row(kind, "more memory", f"ended at {spec.limits.memory_mb} MiB", got, killed)


def _named(spec: SandboxSpec, command: Iterable[str]) -> SandboxSpec:
    return probe_spec(
        replace(spec, name=f"{spec.name}-{secrets.token_hex(4)}"), command=tuple(command)
    )


@mapped
def _info(engine: Engine) -> Mapping[str, Any]:
    return dict(engine.api.info())


@mapped
def _inspect(engine: Engine, container: str) -> Mapping[str, Any]:
    return dict(engine.api.inspect_container(container))


def _short(value: Any) -> str:
    text = json.dumps(value, sort_keys=True) if not isinstance(value, str) else value
    return text if len(text) <= 60 else f"{text[:57]}..."
