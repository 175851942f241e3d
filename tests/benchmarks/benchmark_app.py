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


def measure_beside(client: Client, other: Client, path: Path, field: Path) -> None:
    """Print the times of an image, asked for one after the other, until another client's field is answered."""
    alone, times = ask(other, field), []
    with ThreadPoolExecutor(1) as pool:
        large = pool.submit(ask, other, field)
        while not large.done():
            times.append(1000 * ask(client, path))
    slowest = statistics.quantiles(times, n=20)[-1] if len(times) > 1 else times[0]
    size = " x ".join(map(str, FIELD))
    print(f"field of {size} pixels: {alone:.1f} s alone, {large.result():.1f} s beside {len(times)} images")
    print(f"one image beside it, with upload: median {statistics.median(times):.0f} ms, p95 {slowest:.0f} ms")


def main() -> None:
    folder = Path(tempfile.mkdtemp())
    paths = [folder / f"{number}.png" for number in range(CLIENTS)]
    for number, path in enumerate(paths):
        draw_field("neutrophil", number).save(path)
    draw_large_field(folder / "field.jpg")

    with server() as (url, begun):
        clients = [Client(url, verbose=False)]
        ask(clients[0], paths[0])
        print(f"start to first answer: {time.perf_counter() - begun:.1f} s")
        times = [1000 * ask(clients[0], path) for path in paths]
        print(f"one image after the other, with upload: median {statistics.median(times):.0f} ms")
        clients += [Client(url, verbose=False) for _ in range(CLIENTS - 1)]
        with ThreadPoolExecutor(CLIENTS) as pool:
            started = time.perf_counter()
            for _ in range(ROUNDS):
                list(pool.map(ask, clients, paths))
            print(f"{CLIENTS} clients: {CLIENTS * ROUNDS / (time.perf_counter() - started):.1f} images/s")
        measure_beside(clients[0], clients[1], paths[0], folder / "field.jpg")

    classifier = Classifier(str(ROOT / "hub" / "checkpoint"))
    times = []
    for path in paths:
        begun = time.perf_counter()
        classifier.answers([(path.name, str(path))], 64)
        times.append(1000 * (time.perf_counter() - begun))
    print(f"reading, detecting and classifying: median {statistics.median(times):.1f} ms an image")


if __name__ == "__main__":
    main()
