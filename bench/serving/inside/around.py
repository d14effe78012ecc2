"""An estimator that no server knows: a forest behind somebody's own class."""

from typing import Any

from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.ensemble import RandomForestClassifier


class Around(ClassifierMixin, BaseEstimator):
    """Passes everything on."""

    def fit(self, features: Any, labels: Any) -> "Around":
        self.inner_ = RandomForestClassifier(100, max_depth=10, random_state=0)
        self.inner_.fit(features, labels)
        self.classes_ = self.inner_.classes_
        self.n_features_in_ = features.shape[1]
        return self

    def predict(self, features: Any) -> Any:
        return self.inner_.predict(features)

    def predict_proba(self, features: Any) -> Any:
        return self.inner_.predict_proba(features)
