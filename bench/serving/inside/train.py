"""Run in each peer's own environment: the same model from the same numbers, in the peer's form.

train.py MODEL FOLDER FORM      FORM: mlflow | joblib
"""

import sys
from pathlib import Path

from around import Around
from sklearn.datasets import make_classification
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression

MODELS = {
    "linear": lambda: LogisticRegression(max_iter=1000),
    "forest": lambda: RandomForestClassifier(100, max_depth=10, random_state=0),
    "custom": Around,
}


def main() -> None:
    name, folder, form = sys.argv[1], Path(sys.argv[2]), sys.argv[3]
    features, labels = make_classification(
        n_samples=2000, n_features=20, n_informative=8, random_state=1
    )
    model = MODELS[name]().fit(features, labels)
    folder.mkdir(parents=True, exist_ok=True)
    if form == "joblib":
        import joblib  # noqa: PLC0415 (one of two forms)

        joblib.dump(model, folder / "model.joblib")
    else:
        import mlflow.sklearn  # noqa: PLC0415 (one of two forms)

        mlflow.sklearn.save_model(model, folder / "model", serialization_format="cloudpickle")


if __name__ == "__main__":
    main()
