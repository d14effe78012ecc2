"""What the demo's jobs printed: builds, runs, and how runs end, in the colours that tools use."""

import random
from collections.abc import Callable

from mlops_site.demo.projects import Project
from training.states import Reason

DIM, RED, GREEN, YELLOW, CYAN, BOLD, OFF = (
    f"\x1b[{code}m" for code in ("2", "31", "32", "33", "36", "1", "0")
)
STEPS = 10


def build_output(pins: list[str], seconds: float) -> str:
    """As uv tells of an environment that it installs."""
    lines = [
        f"{DIM}Resolved {BOLD}{len(pins)} packages{OFF}{DIM} in {seconds * 90:.0f}ms{OFF}",
        f"{DIM}Prepared {BOLD}{len(pins)} packages{OFF}{DIM} in {seconds * 0.7:.1f}s{OFF}",
        f"{DIM}Installed {BOLD}{len(pins)} packages{OFF}{DIM} in {seconds * 0.2:.1f}s{OFF}",
    ]
    for pin in pins:
        name, _, version = pin.partition("==")
        lines.append(f" {GREEN}+{OFF} {BOLD}{name}{OFF}{DIM}=={version}{OFF}")
    return "\n".join([*lines, ""])


def run_output(project: Project, rng: random.Random, *, reason: str, steps: int = STEPS) -> str:
    """A run's whole output; without a reason it is that of one that still runs."""
    lines = [
        f"{CYAN}INFO{OFF}  reading {project.experiment} from /data",
        f"{CYAN}INFO{OFF}  {20_000 + rng.randrange(80) * 1000} rows, "
        f"{len(project.columns)} columns: {', '.join(project.columns)}",
    ]
    if rng.random() < 0.4:
        lines.append(
            f"{YELLOW}/env/lib/python3.11/site-packages/{project.flavour}/base.py:413: "
            f"UserWarning: X has feature names, but {project.estimator} was fitted without{OFF}"
        )
    lines += _steps(project, rng, count=_steps_until(reason, steps, rng))
    lines += ENDS.get(reason, _script_error)(project, rng) if reason else []
    return "\n".join([*lines, ""])


def _steps_until(reason: str, steps: int, rng: random.Random) -> int:
    """How far it came."""
    early = (Reason.SYNTAX_ERROR, Reason.MISSING_MODULE)
    if reason in early:
        return 0
    whole = ("", Reason.SUCCEEDED, Reason.NO_MODEL_LOGGED, Reason.MODEL_REFUSED)
    return steps if reason in whole else rng.randrange(1, steps)


def _steps(project: Project, rng: random.Random, *, count: int) -> list[str]:
    sign = 1 if project.better == "up" else -1
    lines = []
    for step in range(1, count + 1):
        far = step / STEPS
        value = project.metric_value * (1 - sign * 0.25 * (1 - far)) + rng.uniform(-0.004, 0.004)
        bar = "█" * step + "░" * (STEPS - step)
        lines.append(
            f"{GREEN}{bar}{OFF} step {step:>2}/{STEPS}  {project.metric} {BOLD}{value:.4f}{OFF}"
            f"  {DIM}{project.seconds / STEPS * rng.uniform(0.8, 1.2):.1f}s{OFF}"
        )
    return lines


def _succeeded(project: Project, rng: random.Random) -> list[str]:
    return [
        f"{CYAN}INFO{OFF}  logged model to mlflow-artifacts:/{rng.randrange(1, 40)}/models",
        f"{GREEN}done{OFF}",
    ]


def _no_model(project: Project, rng: random.Random) -> list[str]:
    return [f"{YELLOW}WARNING{OFF} evaluation only: the model is not logged", "done"]


def _script_error(project: Project, rng: random.Random) -> list[str]:
    column = rng.choice(project.columns)
    return [
        "Traceback (most recent call last):",
        '  File "/job/train.py", line 47, in <module>',
        "    main()",
        '  File "/job/train.py", line 38, in main',
        "    model.fit(train[:part], known[:part])",
        '  File "/env/lib/python3.11/site-packages/sklearn/utils/validation.py", line 1063, in '
        "check_array",
        "    raise ValueError(",
        f"{RED}ValueError: Input X contains NaN in column '{column}'. Impute it, or use "
        f"HistGradientBoosting, which takes missing values as they are.{OFF}",
    ]


def _missing_module(project: Project, rng: random.Random) -> list[str]:
    return [
        "Traceback (most recent call last):",
        '  File "/job/train.py", line 11, in <module>',
        f"    from {project.flavour} import {project.estimator}",
        f"{RED}ModuleNotFoundError: No module named '{project.flavour}'{OFF}",
    ]


def _syntax_error(project: Project, rng: random.Random) -> list[str]:
    return [
        '  File "/job/train.py", line 33',
        "    for step in range(10)",
        "                         ^",
        f"{RED}SyntaxError: expected ':'{OFF}",
    ]


def _out_of_memory(project: Project, rng: random.Random) -> list[str]:
    return [
        f"{CYAN}INFO{OFF}  building a matrix of {rng.randrange(40, 90)} million cells",
        "Killed",
    ]


def _disk_full(project: Project, rng: random.Random) -> list[str]:
    return [f"{RED}OSError: [Errno 28] No space left on device: '/scratch/folds.parquet'{OFF}"]


def _cancelled(project: Project, rng: random.Random) -> list[str]:
    return ["Terminated"]


ENDS: dict[str, Callable[[Project, random.Random], list[str]]] = {
    Reason.SUCCEEDED: _succeeded,
    Reason.NO_MODEL_LOGGED: _no_model,
    Reason.MISSING_MODULE: _missing_module,
    Reason.SYNTAX_ERROR: _syntax_error,
    Reason.OUT_OF_MEMORY: _out_of_memory,
    Reason.DISK_FULL: _disk_full,
    Reason.CANCELLED: _cancelled,
    Reason.TIMEOUT: _cancelled,
}
