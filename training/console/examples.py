"""Scripts to start from: the quick start's own, and one for each of the usual libraries."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from django.conf import settings

FOLDER = Path(settings.BASE_DIR) / "examples" / "training_scripts"


@dataclass(frozen=True)
class Example:
    """`words` is what its link says; its script is the file of that name in `examples/`."""

    name: str
    words: str
    script_name: str
    requirements: tuple[str, ...]
    experiment: str = "my_experiment"
    model: str = "my_model"

    @property
    def script(self) -> str:
        return (FOLDER / self.script_name).read_text(encoding="utf-8")


QUICK_START = Example("quick-start", "Quick start", "my_training.py", ("scikit-learn", "pandas"))
EXAMPLES: Mapping[str, Example] = {
    example.name: example
    for example in (
        QUICK_START,
        Example("sklearn", "scikit-learn", "sklearn_classification.py", ("scikit-learn",)),
        Example("xgboost", "XGBoost", "xgboost_regression.py", ("xgboost", "scikit-learn")),
        Example("lightgbm", "LightGBM", "lightgbm_classification.py", ("lightgbm", "scikit-learn")),
    )
}
