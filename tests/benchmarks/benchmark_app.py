"""Measure the speed of the Space: `python tests/benchmarks/benchmark_app.py`.

It prints the time from the start of the process to the first answer; the time of an image, one after the other, with
and without the server; and the rate of 32 clients at once, with up to 16 images analysed together and with one at a
time.
"""

import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
from gradio_client import Client, handle_file

sys.path.insert(0, str(Path(__file__).parents[2]))

from hub.data.synthetic import draw_field
from space.classifier import Classifier

ROOT = Path(__file__).parents[2]
CLIENTS = 32
ROUNDS = 5


@contextmanager
def server(batch: int):
    """The address of a server that analyses at most `batch` images together, and the time of its start."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    code = f"import app; app.BATCH = {batch}; app.main()"
    begun = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=os.environ | {"GRADIO_SERVER_PORT": str(port), "HF_HUB_OFFLINE": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    url = f"http://127.0.0.1:{port}"
    try:
        while True:
            try:
                httpx.get(url, timeout=60)
                break
            except httpx.HTTPError:
                time.sleep(0.1)
        yield url, begun
    finally:
        process.terminate()
        process.wait()


def ask(client: Client, path: Path) -> float:
    begun = time.perf_counter()
    client.predict(handle_file(path), api_name="/classify")
    return time.perf_counter() - begun


def main() -> None:
    folder = Path(tempfile.mkdtemp())
    paths = [folder / f"{number}.png" for number in range(CLIENTS)]
    for number, path in enumerate(paths):
        draw_field("neutrophil", number).save(path)

    rates = {}
    for batch in (16, 1):
        with server(batch) as (url, begun):
            clients = [Client(url, verbose=False)]
            ask(clients[0], paths[0])
            if batch == 16:
                print(f"start to first answer: {time.perf_counter() - begun:.1f} s")
                times = [1000 * ask(clients[0], path) for path in paths]
                print(f"one image after the other, with upload: median {statistics.median(times):.0f} ms")
            clients += [Client(url, verbose=False) for _ in range(CLIENTS - 1)]
            with ThreadPoolExecutor(CLIENTS) as pool:
                started = time.perf_counter()
                for _ in range(ROUNDS):
                    list(pool.map(ask, clients, paths))
                rates[batch] = CLIENTS * ROUNDS / (time.perf_counter() - started)
            print(f"{CLIENTS} clients, at most {batch} images together: {rates[batch]:.1f} images/s")
    print(f"speed-up by analysing images together: {rates[16] / rates[1]:.2f}")

    classifier = Classifier(str(ROOT / "hub" / "checkpoint"))
    images = [(path.name, str(path)) for path in paths]
    for count in (1, 16):
        times = []
        for start in range(0, CLIENTS, count):
            begun = time.perf_counter()
            classifier.answers(images[start : start + count], 64)
            times.append(1000 * (time.perf_counter() - begun) / count)
        print(
            f"reading, detecting and classifying, {count} at a time: median {statistics.median(times):.1f} ms an image"
        )


if __name__ == "__main__":
    main()
