"""What the people of the demo work on: projects, their scripts, packages and habits. Words only."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Project:
    """One model and the jobs that train it.

    `seconds` is what a run usually takes, `often` how many of a hundred jobs are its own; `better`
    says in which direction its metric gets better: "up" or "down".
    """

    experiment: str
    model: str
    team: str
    owners: tuple[str, ...]
    scripts: tuple[str, ...]
    requirements: tuple[str, ...]
    columns: tuple[str, ...]
    metric: str
    metric_value: float
    better: str
    seconds: float
    memory_mb: int
    often: int
    flavour: str = "sklearn"
    estimator: str = "RandomForestClassifier"
    is_classifier: bool = True


SKLEARN = ("scikit-learn==1.7.2", "pandas==2.3.3")
XGBOOST = ("xgboost==3.0.5", "scikit-learn==1.7.2", "pandas==2.3.3")
LIGHTGBM = ("lightgbm==4.6.0", "scikit-learn==1.7.2", "pandas==2.3.3")
TEXT = ("scikit-learn==1.7.2", "pandas==2.3.3", "nltk==3.9.2")
SERIES = ("statsmodels==0.14.5", "pandas==2.3.3", "scikit-learn==1.7.2")

PROJECTS: tuple[Project, ...] = (
    Project(
        experiment="churn",
        model="churn_predictor",
        team="growth",
        owners=("dana", "emeka"),
        scripts=("train_churn.py", "churn_calibrated.py", "churn_small.py"),
        requirements=SKLEARN,
        columns=("age", "income", "tenure_months", "support_calls"),
        metric="roc_auc",
        metric_value=0.904,
        better="up",
        seconds=48,
        memory_mb=2048,
        often=20,
    ),
    Project(
        experiment="fraud",
        model="card_fraud",
        team="risk",
        owners=("farah", "goran", "nightly"),
        scripts=("train_fraud.py", "fraud_tune.py"),
        requirements=XGBOOST,
        columns=("amount", "hour", "merchant_risk", "distance_km", "card_age_days"),
        metric="average_precision",
        metric_value=0.713,
        better="up",
        seconds=187,
        memory_mb=6144,
        often=16,
        flavour="xgboost",
        estimator="XGBClassifier",
    ),
    Project(
        experiment="demand-forecast",
        model="demand_forecast",
        team="supply",
        owners=("chen", "nightly"),
        scripts=("forecast_stores.py", "forecast_weekly.py"),
        requirements=SERIES,
        columns=("store", "week", "promotion", "temperature"),
        metric="mape",
        metric_value=0.118,
        better="down",
        seconds=420,
        memory_mb=8192,
        often=14,
        estimator="GradientBoostingRegressor",
        is_classifier=False,
    ),
    Project(
        experiment="credit-risk",
        model="credit_default",
        team="risk",
        owners=("goran", "farah"),
        scripts=("train_default.py", "default_monotone.py"),
        requirements=LIGHTGBM,
        columns=("income", "debt", "age", "open_lines", "late_payments"),
        metric="roc_auc",
        metric_value=0.861,
        better="up",
        seconds=95,
        memory_mb=4096,
        often=12,
        flavour="lightgbm",
        estimator="LGBMClassifier",
    ),
    Project(
        experiment="delivery-eta",
        model="delivery_eta",
        team="logistics",
        owners=("hana", "chen"),
        scripts=("train_eta.py", "eta_rush_hour.py"),
        requirements=LIGHTGBM,
        columns=("distance_km", "weekday", "hour", "parcels"),
        metric="mae_minutes",
        metric_value=4.6,
        better="down",
        seconds=74,
        memory_mb=3072,
        often=10,
        flavour="lightgbm",
        estimator="LGBMRegressor",
        is_classifier=False,
    ),
    Project(
        experiment="ticket-routing",
        model="ticket_router",
        team="support",
        owners=("emeka", "isla"),
        scripts=("train_router.py",),
        requirements=TEXT,
        columns=("subject", "body"),
        metric="f1_macro",
        metric_value=0.832,
        better="up",
        seconds=133,
        memory_mb=4096,
        often=9,
        estimator="LogisticRegression",
    ),
    Project(
        experiment="energy-load",
        model="energy_load",
        team="facilities",
        owners=("isla", "nightly"),
        scripts=("load_hourly.py",),
        requirements=SERIES,
        columns=("hour", "weekday", "temperature", "occupancy"),
        metric="rmse_kw",
        metric_value=11.4,
        better="down",
        seconds=58,
        memory_mb=2048,
        often=8,
        estimator="HistGradientBoostingRegressor",
        is_classifier=False,
    ),
    Project(
        experiment="lead-scoring",
        model="lead_score",
        team="growth",
        owners=("dana",),
        scripts=("score_leads.py", "score_leads_eu.py"),
        requirements=SKLEARN,
        columns=("visits", "employees", "industry", "opened_mails"),
        metric="roc_auc",
        metric_value=0.778,
        better="up",
        seconds=31,
        memory_mb=1024,
        often=7,
        estimator="LogisticRegression",
    ),
    Project(
        experiment="returns",
        model="return_rate",
        team="supply",
        owners=("hana", "jonas"),
        scripts=("train_returns.py",),
        requirements=SKLEARN,
        columns=("price", "category", "size_missing", "past_returns"),
        metric="brier",
        metric_value=0.092,
        better="down",
        seconds=22,
        memory_mb=1024,
        often=4,
        estimator="RandomForestClassifier",
    ),
)

# What an environment of these packages holds; no lock is longer than the longest of these.
PINS: dict[str, tuple[str, ...]] = {
    "scikit-learn": ("joblib==1.5.2", "scipy==1.16.2", "threadpoolctl==3.6.0"),
    "pandas": ("python-dateutil==2.9.0.post0", "pytz==2025.2", "six==1.17.0", "tzdata==2025.2"),
    "xgboost": (),
    "lightgbm": (),
    "nltk": ("click==8.3.0", "regex==2025.9.18", "tqdm==4.67.1"),
    "statsmodels": ("patsy==1.0.1",),
    "torch": ("filelock==3.20.0", "jinja2==3.1.6", "networkx==3.5", "sympy==1.14.0"),
}
ALWAYS_PINNED = (
    *("cachetools==6.2.0", "certifi==2025.10.5", "cloudpickle==3.1.1", "mlflow-skinny==3.13.0"),
    *("numpy==2.3.3", "packaging==25.0", "protobuf==6.32.1", "psutil==7.1.0", "pyyaml==6.0.3"),
    *("requests==2.32.5", "sqlparse==0.5.3", "typing-extensions==4.15.0", "urllib3==2.5.0"),
)
# Beside those of the projects: what the list of environments has in it otherwise.
OTHER_ENVIRONMENTS: tuple[tuple[str, ...], ...] = (
    ("torch==2.8.0", "pandas==2.3.3"),
    ("scikit-learn==1.5.2", "pandas==2.2.3"),
    ("scikit-learn==1.7.2",),
    (),
)
