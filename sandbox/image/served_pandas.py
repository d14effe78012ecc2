"""pandas only where a model needs it: its import takes half a second of a cold start.

A model that takes a matrix of numbers never does, but scikit-learn imports pandas for itself, in
`sklearn.utils.fixes`, which makes next to no use of it. That one module gets a stand-in, which
becomes pandas as soon as anything of it is asked for; everybody else gets pandas.
"""

import importlib
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

ASKS = "sklearn.utils.fixes"
NAME = "pandas"


def pandas() -> Any:
    """The module itself; who needs it first imports it."""
    return importlib.import_module(NAME)


def put_pandas_off() -> None:
    """For scikit-learn's sake alone pandas is not imported from here on."""
    if not {NAME, ASKS} & sys.modules.keys() and PathFinder.find_spec(NAME) is not None:
        sys.meta_path.insert(0, _Finder())


class _Finder(MetaPathFinder):
    """Finds the one module that gets a stand-in, and goes."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name != ASKS:
            return None
        sys.meta_path.remove(self)
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader)
        return spec


class _Loader(Loader):
    """While its module is executed, the stand-in has the name."""

    def __init__(self, loader: Loader) -> None:
        self._loader = loader

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        late = sys.modules.setdefault(NAME, _Late(NAME))
        try:
            self._loader.exec_module(module)
        finally:
            if sys.modules.get(NAME) is late and isinstance(late, _Late):
                del sys.modules[NAME]


class _Late(ModuleType):
    """Has nothing of its own, so that all of it is asked for here."""

    def __getattr__(self, name: str) -> Any:
        if sys.modules.get(NAME) is self:
            del sys.modules[NAME]
        return getattr(pandas(), name)
