"""The scripts that the demo's jobs would run: short, and such as people send."""

from mlops_site.demo.projects import Project

LONG = '''"""{model}: {estimator} on {columns_told}."""

import os

import mlflow
import mlflow.{flavour}
import numpy as np
import pandas as pd
from sklearn.model_selection import train_test_split

{import_line}

ROWS = int(os.environ.get("N_ROWS", "{rows}"))
COLUMNS = {columns}
rng = np.random.default_rng({seed})


def load() -> tuple[pd.DataFrame, pd.Series]:
    frame = pd.DataFrame({{name: rng.normal(size=ROWS) for name in COLUMNS}})
    weight = rng.normal(size=len(COLUMNS))
    target = frame.to_numpy() @ weight + rng.normal(scale=0.3, size=ROWS)
    return frame, pd.Series({target})


def main() -> None:
    frame, target = load()
    train, test, known, wanted = train_test_split(frame, target, test_size=0.2, random_state=0)
    with mlflow.start_run():
        mlflow.log_params({{"rows": ROWS, "depth": {depth}, "seed": {seed}}})
        model = {estimator}({arguments})
        for step in range(10):
            part = (step + 1) * len(train) // 10
            model.fit(train[:part], known[:part])
            score = model.score(test, wanted)
            mlflow.log_metric("{metric}", score, step=step)
            print(f"step {{step + 1}}/10  rows {{part}}  {metric} {{score:.4f}}", flush=True)
        mlflow.{flavour}.log_model(model, name="model", input_example=test.head(2))


main()
'''
SHORT = """import mlflow, mlflow.sklearn
from sklearn.datasets import make_classification
from sklearn.ensemble import RandomForestClassifier

X, y = make_classification(n_samples=2000, random_state={seed})
with mlflow.start_run():
    model = RandomForestClassifier(max_depth={depth}).fit(X, y)
    mlflow.log_metric("{metric}", model.score(X, y))
    mlflow.sklearn.log_model(model, name="model")
"""
MODULES = {
    "XGBClassifier": "xgboost",
    "LGBMClassifier": "lightgbm",
    "LGBMRegressor": "lightgbm",
    "LogisticRegression": "sklearn.linear_model",
}


def long_script(project: Project, *, seed: int, depth: int) -> str:
    """As somebody of the project would send it; two with other numbers differ in three lines."""
    module = MODULES.get(project.estimator, "sklearn.ensemble")
    arguments = "max_iter=500" if "Logistic" in project.estimator else f"max_depth={depth}"
    return LONG.format(
        model=project.model,
        flavour=project.flavour,
        estimator=project.estimator,
        import_line=f"from {module} import {project.estimator}",
        columns=list(project.columns),
        columns_told=", ".join(project.columns),
        target="(target > 0).astype(int)" if project.is_classifier else "target",
        metric=project.metric,
        arguments=arguments,
        rows=20_000 + 1000 * depth,
        seed=seed,
        depth=depth,
    )


def short_script(project: Project, *, seed: int, depth: int) -> str:
    """For the many that nobody opens: a million of the long ones would fill two gigabytes."""
    return SHORT.format(metric=project.metric, seed=seed, depth=depth)
