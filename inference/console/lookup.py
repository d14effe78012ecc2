"""What is known of models: from MLflow while it answers, and from our own rows in any case.

MLflow has the models, their versions, aliases and runs; our rows have what serves them and what
aliases named before. A page says which part it could not ask, and shows the other.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from django.db.models import QuerySet

from inference.models import AliasChange, ModelPolicy, ModelServer
from inference.services.rows import LIVE, Status
from registry.mlflow_catalog import Catalog, ModelsPage
from registry.mlflow_client import (
    ModelNotFound,
    ModelVersion,
    ModelVersionNotFound,
    RegisteredModel,
    RegistryRefused,
    RegistryUnavailable,
    RunNotFound,
    model_registry,
)
from registry.mlflow_documents import Run
from registry.mlflow_models import AboutModel

MODELS_SHOWN, VERSIONS_SHOWN, NEIGHBOURS = 50, 50, 4
# Each of these costs one call.
LOOKED_UP_SHOWN = 25
STATES: dict[str, Sequence[str]] = {"running": LIVE, "failed": (Status.FAILED,)}


@dataclass(frozen=True)
class Listed:
    """A model of a list; without `model` only our own rows know it."""

    name: str
    model: RegisteredModel | None = None

    @property
    def newest(self) -> ModelVersion | None:
        return next(iter(self.model.latest_versions), None) if self.model else None


@dataclass(frozen=True)
class Models:
    """A page of a list. `after` and `past` say how it goes on: MLflow's way, or by a name.

    `problem` is why MLflow could not be asked.
    """

    listed: Sequence[Listed] = ()
    after: str = ""
    past: str = ""
    problem: str = ""


@dataclass(frozen=True)
class OneModel:
    """`versions` are the newest first; without `model` MLflow does not know it or does not answer,
    and `problem` says which."""

    model: RegisteredModel | None = None
    versions: Sequence[ModelVersion] = ()
    is_last: bool = True
    problem: str = ""


@dataclass(frozen=True)
class OneVersion:
    """A version, what it came from, and the one it is compared with; each None where unknown."""

    number: str
    version: ModelVersion | None = None
    model: RegisteredModel | None = None
    others: Sequence[ModelVersion] = ()
    run: Run | None = None
    beside: ModelVersion | None = None
    beside_run: Run | None = None
    about: AboutModel | None = None
    problem: str = ""


# -- lists ----------------------------------------------------------------------------------------
def models(*, text: str = "", after: str = "", past: str = "", state: str = "") -> Models:
    """Of all models, or with `state` of those that have a server in one of its statuses.

    Raises RegistryRefused for an `after` that is none of MLflow's.
    """
    if state or past:
        return _known_here(text=text, past=past, state=state)
    try:
        page: ModelsPage = _catalog().models(text=text, after=after, limit=MODELS_SHOWN)
    except RegistryUnavailable as error:
        return _known_here(text=text, past="", state="", problem=str(error.detail))
    return Models([Listed(model.name, model) for model in page.models], after=page.after)


def _known_here(*, text: str, past: str, state: str, problem: str = "") -> Models:
    """With what MLflow has of each, unless it does not answer: `problem` says that, and how."""
    names = _names(text=text, past=past, state=state)
    shown = names[:LOOKED_UP_SHOWN]
    following = shown[-1] if len(names) > len(shown) else ""
    listed: list[Listed] = []
    for name in shown:
        model = None
        if not problem:
            try:
                model = _catalog().model(name)
            except ModelNotFound:
                model = None
            except RegistryUnavailable as error:
                problem = str(error.detail)
        listed.append(Listed(name, model))
    return Models(listed, past=following, problem=problem)


def _names(*, text: str, past: str, state: str) -> list[str]:
    """In their order; one more than are shown, where there are more."""

    def of(rows: QuerySet[Any]) -> QuerySet[Any, str]:
        if text:
            rows = rows.filter(model_name__icontains=text)
        if past:
            rows = rows.filter(model_name__gt=past)
        return rows.order_by().values_list("model_name", flat=True)

    if state:
        rows = of(ModelServer.objects.filter(status__in=STATES[state])).distinct()
    else:
        rows = of(ModelServer.objects.all()).union(
            of(AliasChange.objects.all()), of(ModelPolicy.objects.all())
        )
    return list(rows.order_by("model_name")[: LOOKED_UP_SHOWN + 1])


# -- one model ------------------------------------------------------------------------------------
def model(name: str, *, below: int | None = None) -> OneModel | None:
    """None where MLflow and our rows know nothing of it."""
    try:
        found = _catalog().model(name)
        page = _catalog().versions(name, below=below, limit=VERSIONS_SHOWN)
    except RegistryUnavailable as error:
        return OneModel(problem=str(error.detail))
    except ModelNotFound:
        if not is_known_here(name):
            return None
        return OneModel(problem="MLflow has no such model any more.")
    return OneModel(found, page.versions, page.is_last)


def numbers_known_here(name: str) -> list[str]:
    """Versions that our rows name, the newest first; for while MLflow is away."""
    served = ModelServer.objects.filter(model_name=name).order_by().values_list("version")
    named = AliasChange.objects.filter(model_name=name).exclude(version="").order_by()
    numbers = served.union(named.values_list("version"))
    found = [number for (number,) in numbers if number.isdecimal()]
    return sorted(found, key=int, reverse=True)[:VERSIONS_SHOWN]


def number_of(name: str, selector: str) -> str:
    """What an alias or `latest` names now. Raises an APIException where it names nothing."""
    registry = model_registry()
    if selector == "latest":
        return registry.version(name, None).version
    return registry.aliased(name, selector).version


# -- one version ----------------------------------------------------------------------------------
def version(name: str, number: str, *, beside: str = "") -> OneVersion | None:
    """None where MLflow and our rows know nothing of it. What was found before MLflow fell silent
    is kept.

    `beside` is the version to compare with; without it, that is the one before.
    """
    found = OneVersion(number)
    try:
        found = replace(found, version=model_registry().version(name, number))
        found = replace(found, model=_catalog().model(name))
        others = _catalog().versions(name, limit=NEIGHBOURS).versions
        found = replace(found, others=others)
        found = replace(found, run=run_of(found.version))
        found = replace(found, beside=_beside(name, number, beside, others))
        found = replace(found, beside_run=run_of(found.beside))
        found = replace(found, about=_about(found.version))
    except RegistryUnavailable as error:
        return replace(found, problem=str(error.detail))
    except (ModelVersionNotFound, ModelNotFound):
        if not is_known_here(name, number):
            return None
        return replace(found, problem="MLflow has no such version any more.")
    return found


def run_of(version: ModelVersion | None) -> Run | None:
    """None for a version of no run, and of one that is gone. Raises RegistryUnavailable."""
    if version is None or not version.run_id:
        return None
    try:
        return _catalog().run(version.run_id)
    except RunNotFound:
        return None


def _about(version: ModelVersion | None) -> AboutModel | None:
    """None where the MLflow server does not keep its files. Raises RegistryUnavailable."""
    if version is None:
        return None
    try:
        return model_registry().about(version)
    except RegistryRefused:
        return None


def _beside(
    name: str, number: str, wanted: str, others: Sequence[ModelVersion]
) -> ModelVersion | None:
    """A version that there is none of is compared with nothing. Raises RegistryUnavailable."""
    if wanted:
        try:
            return model_registry().version(name, wanted)
        except (ModelVersionNotFound, RegistryRefused):
            return None
    older = [other for other in others if int(other.version) < int(number)]
    if older:
        return older[0]
    return next(iter(_catalog().versions(name, below=int(number), limit=1).versions), None)


def is_known_here(name: str, number: str = "") -> bool:
    """Whether our own rows name the model, or the version of it."""
    served = ModelServer.objects.filter(model_name=name)
    named = AliasChange.objects.filter(model_name=name)
    if number:
        served, named = served.filter(version=number), named.filter(version=number)
    return served.exists() or named.exists()


def _catalog() -> Catalog:
    return model_registry().catalog
