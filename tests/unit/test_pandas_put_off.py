"""A model's server imports pandas for who needs it, and scikit-learn notices nothing."""

import subprocess
import sys
from pathlib import Path

IMAGE = Path(__file__).parents[2] / "sandbox" / "image"
BEGIN = f"""
import sys
sys.path.append({str(IMAGE)!r})
from served_pandas import put_pandas_off
put_pandas_off()
"""


def run(script: str) -> str:
    """In an interpreter of its own: here everything is imported already."""
    done = subprocess.run(
        [sys.executable, "-c", BEGIN + script], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_a_model_of_numbers_is_asked_without_pandas() -> None:
    script = """
import numpy as np
from sklearn.linear_model import LogisticRegression
model = LogisticRegression().fit(np.arange(8.0).reshape(-1, 1), [0, 0, 0, 0, 1, 1, 1, 1])
print(model.predict([[0.0], [7.0]]).tolist(), "pandas" in sys.modules)
"""
    assert run(script) == "[0, 1] False"


def test_who_imports_pandas_later_gets_pandas_itself() -> None:
    script = """
import sklearn.utils.fixes as fixes
from sklearn.preprocessing import StandardScaler
assert "pandas" not in sys.modules
import pandas as pd
import pandas.api.types
frame = pd.DataFrame({"a": [1.0, 2.0, 3.0]})
scaler = StandardScaler().set_output(transform="pandas").fit(frame)
told = scaler.transform(frame)
print(type(pd).__name__, list(scaler.feature_names_in_), type(told) is pd.DataFrame)
print(fixes.pd.DataFrame is pd.DataFrame, fixes.pd.__version__ == pd.__version__)
"""
    assert run(script) == "module ['a'] True\nTrue True"


def test_the_stand_in_becomes_pandas_when_it_is_asked() -> None:
    script = """
import sklearn.utils.fixes as fixes
frame = fixes.pd.DataFrame({"a": [1]})
print(sys.modules["pandas"].DataFrame is type(frame), type(sys.modules["pandas"]).__name__)
"""
    assert run(script) == "True module"


def test_nothing_is_put_off_where_pandas_is_there() -> None:
    script = """
sys.meta_path[:] = [one for one in sys.meta_path if "served" not in type(one).__module__]
import pandas
before = list(sys.meta_path)
put_pandas_off()
print(sys.meta_path == before)
"""
    assert run(script) == "True"
