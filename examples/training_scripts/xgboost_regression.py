"""Gradient boosting on the diabetes data set that ships with scikit-learn.

--requirements xgboost scikit-learn
"""

import os

import mlflow
import mlflow.xgboost
from sklearn.datasets import load_diabetes
from sklearn.metrics import mean_absolute_error, r2_score, root_mean_squared_error
from sklearn.model_selection import train_test_split
from xgboost import XGBRegressor

PARAMS = {
    "n_estimators": int(os.getenv("N_ESTIMATORS", "200")),
    "max_depth": int(os.getenv("MAX_DEPTH", "3")),
    "learning_rate": float(os.getenv("LEARNING_RATE", "0.05")),
    "subsample": 0.8,
}

print("Loading data...")
X, y = load_diabetes(return_X_y=True, as_frame=True)
X_train, X_test, y_train, y_test = train_test_split(X, y, test_size=0.2, random_state=42)

with mlflow.start_run():
    mlflow.log_params(PARAMS)
    print(f"Training on {len(X_train)} samples...")
    model = XGBRegressor(**PARAMS, random_state=42)
    model.fit(X_train, y_train)

    predicted = model.predict(X_test)
    metrics = {
        "rmse": root_mean_squared_error(y_test, predicted),
        "mae": mean_absolute_error(y_test, predicted),
        "r2": r2_score(y_test, predicted),
    }
    mlflow.log_metrics(metrics)
    mlflow.xgboost.log_model(model, "model", input_example=X_test.head(2))
    print(f"Done: rmse {metrics['rmse']:.1f}, r2 {metrics['r2']:.3f}")
