"""Run in each peer's own environment: the same model from the same numbers, in the peer's form.

MLflow's has named columns and a signature, as MLflow asks everybody to log it.

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
    folder.mkdir(parents=True, exist_ok=True)
    if form == "joblib":
        import joblib  # noqa: PLC0415 (one of two forms)

        joblib.dump(MODELS[name]().fit(features, labels), folder / "model.joblib")
        return
    import mlflow.sklearn  # noqa: PLC0415 (one of two forms)
    import pandas  # noqa: PLC0415 (with it)

    named = pandas.DataFrame(features, columns=[f"c{at}" for at in range(features.shape[1])])
    mlflow.sklearn.save_model(
        MODELS[name]().fit(named, labels),
        folder / "model",
        signature=mlflow.models.infer_signature(named, labels),
        serialization_format="cloudpickle",
    )


if __name__ == "__main__":
    main()
