"""A random forest on the breast cancer data set that ships with scikit-learn.

--requirements scikit-learn
"""

import os

import mlflow
import mlflow.sklearn
from sklearn.datasets import load_breast_cancer
from sklearn.ensemble import RandomForestClassifier
from sklearn.metrics import accuracy_score, f1_score, precision_score, recall_score
from sklearn.model_selection import train_test_split

N_ESTIMATORS = int(os.getenv("N_ESTIMATORS", "100"))
MAX_DEPTH = int(os.getenv("MAX_DEPTH", "8"))

print("Loading data...")
X, y = load_breast_cancer(return_X_y=True, as_frame=True)
X_train, X_test, y_train, y_test = train_test_split(
    X, y, test_size=0.2, random_state=42, stratify=y
)

with mlflow.start_run():
    mlflow.log_params({"n_estimators": N_ESTIMATORS, "max_depth": MAX_DEPTH})
    print(f"Training on {len(X_train)} samples...")
    model = RandomForestClassifier(n_estimators=N_ESTIMATORS, max_depth=MAX_DEPTH, random_state=42)
    model.fit(X_train, y_train)

    predicted = model.predict(X_test)
    metrics = {
        "accuracy": accuracy_score(y_test, predicted),
        "precision": precision_score(y_test, predicted),
        "recall": recall_score(y_test, predicted),
        "f1_score": f1_score(y_test, predicted),
    }
    mlflow.log_metrics(metrics)
    mlflow.sklearn.log_model(model, "model", input_example=X_test.head(2))
    print(f"Done: accuracy {metrics['accuracy']:.3f}, f1 {metrics['f1_score']:.3f}")
