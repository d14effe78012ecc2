"""Which requirement brings a module, where the two have different names, and what is there anyway.

Source of the pairs: the packages' own metadata (`top_level.txt`) on PyPI.
"""

import difflib
import re
import sys
from collections.abc import Iterable

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

ALWAYS_THERE = sys.stdlib_module_names | {"__main__"}
MISSING = re.compile(r"No module named '(?P<module>[\w.]+)'")
NEAR_MAX, NEAR_ENOUGH = 3, 0.75
# What scripts ask for most, beside the packages below whose modules have other names.
OFTEN_ASKED_FOR = (
    *("boto3", "catboost", "click", "cvxpy", "dask", "datasets", "duckdb", "fastai", "flask"),
    *("gensim", "hyperopt", "interpret", "ipython", "jax", "joblib", "keras", "lightgbm"),
    *("lightning", "matplotlib", "mlflow", "networkx", "nltk", "numba", "numpy", "nvidia-ml-py"),
    *("onnx", "onnxruntime", "openpyxl", "optuna", "pandas", "plotly", "polars", "prophet"),
    *("psutil", "pyarrow", "pydantic", "pytest", "pytorch-lightning", "ray", "requests", "s3fs"),
    *("scipy", "seaborn", "sentence-transformers", "shap", "spacy", "sqlalchemy", "statsmodels"),
    *("tensorflow", "tokenizers", "torch", "torchaudio", "torchvision", "tqdm", "transformers"),
    *("ultralytics", "xarray", "xgboost"),
)
REQUIREMENT_OF_MODULE = {
    "attr": "attrs",
    "boto": "boto3",
    "bs4": "beautifulsoup4",
    "cv2": "opencv-python-headless",
    "Crypto": "pycryptodome",
    "dateutil": "python-dateutil",
    "docx": "python-docx",
    "dotenv": "python-dotenv",
    "faiss": "faiss-cpu",
    "fitz": "PyMuPDF",
    "git": "GitPython",
    "google.cloud.bigquery": "google-cloud-bigquery",
    "google.cloud.storage": "google-cloud-storage",
    "grpc": "grpcio",
    "imblearn": "imbalanced-learn",
    "jose": "python-jose",
    "jwt": "PyJWT",
    "ldap": "python-ldap",
    "MySQLdb": "mysqlclient",
    "magic": "python-magic",
    "mlxtend": "mlxtend",
    "mpl_toolkits": "matplotlib",
    "nacl": "PyNaCl",
    "OpenSSL": "pyOpenSSL",
    "PIL": "Pillow",
    "pptx": "python-pptx",
    "psycopg2": "psycopg2-binary",
    "pkg_resources": "setuptools",
    "pywt": "PyWavelets",
    "serial": "pyserial",
    "skimage": "scikit-image",
    "sklearn": "scikit-learn",
    "skopt": "scikit-optimize",
    "slugify": "python-slugify",
    "tables": "tables",
    "umap": "umap-learn",
    "usb": "pyusb",
    "win32api": "pywin32",
    "yaml": "PyYAML",
    "zmq": "pyzmq",
}


def requirement_for(module: str) -> str:
    """The requirement that brings `module`; its first name where nothing else is known."""
    parts = module.split(".")
    for length in range(len(parts), 0, -1):
        known = REQUIREMENT_OF_MODULE.get(".".join(parts[:length]))
        if known:
            return known
    return parts[0]


def known_requirement_for(module: str) -> str:
    """The requirement that brings `module`, if it is one that many use; empty for a guess.

    Only such a one is worth a button: a package that merely has the module's name may be anybody's.
    """
    found = requirement_for(module)
    return found if found in OFTEN_ASKED_FOR or found in REQUIREMENT_OF_MODULE.values() else ""


def near_names(name: str, others: Iterable[str] = ()) -> list[str]:
    """What somebody who wrote `name` as a requirement may have meant; the best guess first.

    Looked for among the names that are known here, and `others`: nobody asks an index for all.
    """
    module = {key.lower(): value for key, value in REQUIREMENT_OF_MODULE.items()}.get(name.lower())
    canonical = canonicalize_name(name)
    names = (*OFTEN_ASKED_FOR, *REQUIREMENT_OF_MODULE.values(), *others)
    known = {str(canonicalize_name(one)): one for one in names}
    close = difflib.get_close_matches(canonical, known, n=NEAR_MAX, cutoff=NEAR_ENOUGH)
    found = [known[one] for one in close if one != canonical]
    return list(dict.fromkeys([module, *found] if module else found))


def missing_module(error: str) -> str | None:
    """The module that an error line says is missing; None when it says nothing of the kind."""
    found = MISSING.search(error)
    return found["module"] if found else None


def distributions_in(requirements: Iterable[str]) -> frozenset[str]:
    """The names of what requirements, or the lines of a lock, ask for; what is none is left out."""
    names = set()
    for line in requirements:
        try:
            names.add(canonicalize_name(Requirement(line).name))
        except InvalidRequirement:
            continue
    return frozenset(names)


def is_brought(module: str, distributions: frozenset[str]) -> bool:
    """Whether one of these most likely brings the module, or Python itself does.

    In doubt it does: a package that is installed may have any module in it, and somebody who is
    told to add what is there already believes nothing any more. So `faiss` is brought by
    `faiss-cpu`, and `cv2` by `opencv-python` as well as by its headless sister.
    """
    top = module.partition(".")[0]
    if top in ALWAYS_THERE:
        return True
    wanted = {canonicalize_name(requirement_for(module)), canonicalize_name(top)}
    squashed = {name.replace("-", "") for name in wanted}
    return any(
        name in wanted
        or name.replace("-", "") in squashed
        or any(name.startswith(f"{one}-") or one.startswith(f"{name}-") for one in wanted)
        for name in distributions
    )
