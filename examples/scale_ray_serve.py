"""Ray Serve: replicas that speak the Open Inference Protocol v2: `python examples/scale_ray_serve.py FILE`."""

from __future__ import annotations

import sys
from http.client import HTTPConnection
from pathlib import Path

import numpy as np
import ray
from ray import serve

import lowbit

PORT = 8000


def ask(path: str, body: bytes = b"", json_bytes: int = 0) -> bytes:
    """The body of an answer; with its own length of JSON, a request is binary."""
    connection = HTTPConnection("127.0.0.1", PORT, timeout=30)
    headers = {"Inference-Header-Content-Length": str(json_bytes)} if json_bytes else {}
    connection.request("POST" if body else "GET", path, body, headers)
    return connection.getresponse().read()


def main(path: str, rows: int = 4) -> None:
    """Two replicas of one CPU serve a file; rows of noise are answered with the bits of one process."""
    application = lowbit.serve.app({"net": str(Path(path).resolve())}, threads=1, concurrency=1)

    class Replica:
        """An ASGI application has all of a replica's routes."""

    ray.init(log_to_driver=False)
    serve.start(http_options={"port": PORT})
    deployment = serve.deployment(num_replicas=2, ray_actor_options={"num_cpus": 1})
    serve.run(deployment(serve.ingress(application)(Replica)).bind(), route_prefix="/")

    predict = lowbit.Predictor(path, threads=1)
    ((name, tensor),) = predict.types()[0].items()
    images = np.random.default_rng(0).standard_normal((rows, *map(int, tensor.shape[1:])), dtype=np.float32)
    size = images.nbytes
    said = (
        f'{{"inputs": [{{"name": "{name}", "datatype": "FP32", "shape": {[*images.shape]}, '
        f'"parameters": {{"binary_data_size": {size}}}}}], "parameters": {{"binary_data_output": true}}}}'
    ).encode()
    expected = predict({name: images})["output"].tobytes()
    found = [ask("/v2/models/net/infer", said + images.tobytes(), len(said))[-len(expected) :] for _ in range(8)]
    print(ask("/v2/models/net").decode())
    print("8 answers of two replicas, the same bits:", found == [expected] * 8)
    serve.shutdown()


if __name__ == "__main__":
    main(sys.argv[1])
