"""Measure the speed of the Space: `python tests/benchmarks/benchmark_app.py`.

It prints the time from the start of the process to the first answer; the time of an image, one after the other, with
and without the server; the rate of 32 clients at once; and the time of an image while another visitor's field of 4,000
x 3,000 pixels with 300 cells is analysed.
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
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[2]))

from hub.data.synthetic import draw_field
from space.classifier import Classifier
from tests.benchmarks.tables import print_rows

ROOT = Path(__file__).parents[2]
CLIENTS = 32
ROUNDS = 5
FIELD = (4000, 3000)
FIELD_CELLS = (20, 15)  # columns and rows


@contextmanager
def server():
    """The address of a server, and the time of its start."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    begun = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "app.py"],
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


def draw_large_field(path: Path) -> None:
    """Draw a cell into each of 300 parts of a field."""
    columns, rows = FIELD_CELLS
    side = (FIELD[0] // columns, FIELD[1] // rows)
    field = Image.new("RGB", FIELD)
    for number in range(columns * rows):
        cell = draw_field(("lymphocyte", "monocyte", "neutrophil")[number % 3], number, side)
        field.paste(cell, (number % columns * side[0], number // columns * side[1]))
    field.save(path, quality=90)


def beside(client: Client, other: Client, path: Path, field: Path) -> dict[str, float]:
    """The times of an image, asked for one after the other, until another client's field is answered."""
    size, alone, times = " x ".join(map(str, FIELD)), ask(other, field), []
    with ThreadPoolExecutor(1) as pool:
        large = pool.submit(ask, other, field)
        while not large.done():
            times.append(1000 * ask(client, path))
    return {
        f"Field of {size} pixels, alone (s)": alone,
        f"Field of {size} pixels, beside other images (s)": large.result(),
        "An image beside it, with upload, median (ms)": statistics.median(times),
        "An image beside it, with upload, p95 (ms)": statistics.quantiles(times, n=20)[-1] if times[1:] else times[0],
    }


def measure(small: bool) -> list[dict]:
    """The rows of the table."""
    count, rounds = (4, 1) if small else (CLIENTS, ROUNDS)
    found = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        paths = [folder / f"{number}.png" for number in range(count)]
        for number, path in enumerate(paths):
            draw_field("neutrophil", number).save(path)
        draw_large_field(folder / "field.jpg")

        with server() as (url, begun):
            clients = [Client(url, verbose=False)]
            ask(clients[0], paths[0])
            found["Start to first answer (s)"] = time.perf_counter() - begun
            times = [1000 * ask(clients[0], path) for path in paths]
            found["One image after the other, with upload, median (ms)"] = statistics.median(times)
            clients += [Client(url, verbose=False) for _ in range(count - 1)]
            with ThreadPoolExecutor(count) as pool:
                started = time.perf_counter()
                for _ in range(rounds):
                    list(pool.map(ask, clients, paths))
                found[f"{count} clients (images/s)"] = count * rounds / (time.perf_counter() - started)
            found |= beside(clients[0], clients[1], paths[0], folder / "field.jpg")

        classifier = Classifier(str(ROOT / "hub" / "checkpoint"))
        times = []
        for path in paths:
            begun = time.perf_counter()
            classifier.answers([(path.name, str(path))], 64)
            times.append(1000 * (time.perf_counter() - begun))
        found["Reading, detecting and classifying, median (ms an image)"] = statistics.median(times)
    return [{"Figure": name, "Value": round(value, 1)} for name, value in found.items()]


if __name__ == "__main__":
    print_rows(measure(False))
