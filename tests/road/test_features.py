"""Features in a request, through the whole platform: its own accounts read the store."""

from deploy.trial import Platform

CUSTOMERS_MODEL = """\
import mlflow
import mlflow.sklearn
import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression

numbers = np.random.default_rng(0)
rows = pd.DataFrame({"tenure": numbers.integers(0, 13, 200), "age": numbers.integers(18, 81, 200)})
model = LogisticRegression().fit(rows, rows["age"] > 50)
with mlflow.start_run():
    mlflow.sklearn.log_model(model, "model", signature=mlflow.models.infer_signature(rows))
"""


def test_entities_are_answered_as_their_values_are(platform: Platform) -> None:
    job = platform.run(CUSTOMERS_MODEL, model_name="customers", requirements=["scikit-learn"])
    assert job["status"] == "completed", job
    asked = {"model_name": "customers", "return_probabilities": True}
    looked_up = {
        **asked,
        "entities": {"customer_id": [1, 200]},
        "feature_service": "churn",
        "return_features": True,
    }
    by_entities = platform.post("/mlops/inference", looked_up)
    assert by_entities.status_code == 200, by_entities.text
    assert "features;dur=" in by_entities.headers["server-timing"]
    found = by_entities.json()
    assert list(found["features"]) == ["tenure", "age"]
    by_values = platform.post("/mlops/inference", {**asked, "inputs": found["features"]}).json()
    assert found["probabilities"] == by_values["probabilities"]
    unknown = platform.post("/mlops/inference", {**looked_up, "entities": [{"customer_id": 999}]})
    assert (unknown.status_code, unknown.json()["code"]) == (422, "features_missing")
