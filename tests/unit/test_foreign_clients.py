"""Clients that we did not write, against the web process's own router and a stand-in model."""

import asyncio
import socket
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import orjson
import pandas as pd
import pytest
import tritonclient.http as triton
import uvicorn
from mlflow.deployments import get_deploy_client
from mlflow.pyfunc.scoring_server.client import ScoringServerClient

from inference import gateway
from inference.answers import Predicted
from inference.schema import Model
from inference.upstream import Heard
from mlops_site.asgi import application
from mlops_site.connections import Connection

INPUTS = np.array([[1.0, 2.0], [3.0, 4.0]], dtype=np.float32)


class Road:
    """Sums each row, as a model that is always ready."""

    async def predict(self, name: str, selector: str, body: bytes, *, request_id: str) -> Predicted:
        rows = orjson.loads(body)["inputs"]
        if isinstance(rows, dict):
            rows = list(zip(*rows.values(), strict=True))
        sums = [float(sum(row)) for row in rows]
        said: dict[str, Any] = {
            "predictions": sums,
            "probabilities": [[0.5, 0.5]] * len(sums),
            "classes": None,
            "inference_time_ms": 0.1,
        }
        return Predicted(name, "1", said, Heard(200, b""), 1.0)


@pytest.fixture
def address(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The web process's application on a port of its own."""
    monkeypatch.setattr(gateway, "current", Road)

    async def described(_: Any, name: str, selector: str) -> Model:
        return Model(name, "1", "Sum", (), 2, True, (), None)

    monkeypatch.setattr("inference.dialects.open_inference.described", described)
    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(
        uvicorn.Config(application, http=Connection, lifespan="off", log_level="error")
    )
    thread = threading.Thread(target=lambda: asyncio.run(server.serve([listening])))
    thread.start()
    yield f"127.0.0.1:{listening.getsockname()[1]}"
    server.should_exit = True
    thread.join()
    listening.close()


@pytest.mark.parametrize("binary", [True, False])
def test_tritons_client_gets_predictions_and_probabilities(address: str, binary: bool) -> None:
    client = triton.InferenceServerClient(address)
    tensor = triton.InferInput("x", list(INPUTS.shape), "FP32")
    tensor.set_data_from_numpy(INPUTS, binary_data=binary)
    wanted = [triton.InferRequestedOutput(name) for name in ("predict", "predict_proba")]
    result = client.infer("sum", [tensor], outputs=wanted, model_version="1")
    assert result.as_numpy("predict").tolist() == [3.0, 7.0]
    assert result.as_numpy("predict_proba").shape == (2, 2)
    client.close()


def test_tritons_client_reads_who_is_there(address: str) -> None:
    client = triton.InferenceServerClient(address)
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("sum", "1")
    assert client.get_server_metadata()["name"] == "mlops-engine"
    assert client.get_model_metadata("sum")["inputs"][0]["shape"] == [-1, 2]
    client.close()


def test_tritons_client_is_told_what_is_wrong(address: str) -> None:
    client = triton.InferenceServerClient(address)
    tensor = triton.InferInput("x", [2, 2], "FP32")
    tensor.set_data_from_numpy(INPUTS)
    with pytest.raises(triton.InferenceServerException, match="There is no output nope"):
        client.infer("sum", [tensor], outputs=[triton.InferRequestedOutput("nope")])
    client.close()


def test_mlflows_deployments_client_asks_a_model(address: str) -> None:
    client = get_deploy_client(f"http://{address}/mlops")
    answer = client.predict(endpoint="sum", inputs={"inputs": INPUTS.tolist()})
    assert answer["predictions"] == [3.0, 7.0]


def test_mlflows_scoring_client_asks_a_version(address: str) -> None:
    client = ScoringServerClient("127.0.0.1", 1)
    client.url_prefix = f"http://{address}/mlops/models/sum/versions/1"
    frame = pd.DataFrame(INPUTS, columns=["a", "b"])
    assert client.invoke(frame).get_predictions()[0].tolist() == [3.0, 7.0]
