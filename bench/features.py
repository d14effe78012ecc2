"""`python -m bench.features`: a look-up of features beside Feast's own call, in one run.

The floor is `FeatureStore.get_online_features` in the process that asks; ours goes to the process
that reads features and back, checks keys and ages, and makes JSON of it. The example's repository.
"""

import asyncio
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import django

ROWS = (1, 100, 1000)
ASKED = int(os.environ.get("BENCH_ASKED", "200"))
CUSTOMERS = 200
FEATURES = 6


async def measure(repo: Path) -> None:
    # After Django's set-up, and 5 to 13 seconds of it: only who measures needs Feast here.
    from feast import FeatureStore  # noqa: PLC0415

    from registry.online.client import FeatureClient  # noqa: PLC0415
    from registry.online.frames import FeatureQuestion, Source  # noqa: PLC0415

    store = FeatureStore(repo_path=str(repo))
    service = store.get_feature_service("churn")
    client = FeatureClient(repo, seconds=60, answer_bytes=16 * 1024 * 1024)
    print(f"{FEATURES} features, {ASKED} each, load {os.getloadavg()[0]:.1f}")
    for rows in ROWS:
        keys: dict[str, list[Any]] = {"customer_id": [1 + row % CUSTOMERS for row in range(rows)]}
        question = FeatureQuestion(Source.SERVICE, ("churn",), keys)
        await client.ask(question)
        store.get_online_features(service, keys).to_dict()
        times = []
        for _ in range(max(10, ASKED // rows)):
            begin = time.perf_counter()
            store.get_online_features(service, keys, full_feature_names=True).to_dict()
            between = time.perf_counter()
            await client.ask(question)
            times.append((time.perf_counter() - between, between - begin))
        ours, floor = (statistics.median(each[at] for each in times) * 1000 for at in (0, 1))
        print(
            f"  {rows:>5} entities  ours p50 {ours:8.2f} ms, Feast alone {floor:8.2f} ms, "
            f"{ours / floor:.2f}×"
        )
    await client.close()


def main() -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "mlops_site.settings")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["MLOPS_HOME"] = folder
        django.setup()
        from registry.management.commands.prepare_feature_store import prepare  # noqa: PLC0415

        repo = Path(folder) / "feast"
        prepare(repo)
        asyncio.run(measure(repo))


if __name__ == "__main__":
    main()
