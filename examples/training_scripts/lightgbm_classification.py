"""LightGBM on the wine data set that ships with scikit-learn, steered by environment variables.

--requirements lightgbm scikit-learn --env N_ESTIMATORS=200 --env LEARNING_RATE=0.05
"""

import os

import mlflow
import mlflow.lightgbm
from lightgbm import LGBMClassifier
from sklearn.datasets import load_wine
from sklearn.metrics import accuracy_score, f1_score, log_loss
from sklearn.model_selection import train_test_split

PARAMS = {
    "n_estimators": int(os.getenv("N_ESTIMATORS", "100")),
    "learning_rate": float(os.getenv("LEARNING_RATE", "0.1")),
    "num_leaves": int(os.getenv("NUM_LEAVES", "15")),
}
TEST_SIZE = float(os.getenv("TEST_SIZE", "0.25"))

print("Loading data...")
X, y = load_wine(return_X_y=True, as_frame=True)
# LightGBM takes no "/" in a column's name, and the wine data set has one.
X.columns = [name.replace("/", "_per_") for name in X.columns]
X_train, X_test, y_train, y_test = train_test_split(
    X, y, test_size=TEST_SIZE, random_state=42, stratify=y
)

with mlflow.start_run():
    mlflow.log_params({**PARAMS, "test_size": TEST_SIZE})
    print(f"Training on {len(X_train)} samples with {PARAMS}...")
    model = LGBMClassifier(**PARAMS, random_state=42, verbose=-1)
    model.fit(X_train, y_train)

    metrics = {
        "accuracy": accuracy_score(y_test, model.predict(X_test)),
        "f1_macro": f1_score(y_test, model.predict(X_test), average="macro"),
        "log_loss": log_loss(y_test, model.predict_proba(X_test)),
    }
    mlflow.log_metrics(metrics)
    mlflow.lightgbm.log_model(model, "model", input_example=X_test.head(2))
    print(f"Done: accuracy {metrics['accuracy']:.3f}, log loss {metrics['log_loss']:.3f}")
