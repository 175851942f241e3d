"""The API as programs call it, through `gradio_client` and plain HTTP."""

import io
import json
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from gradio_client import handle_file
from PIL import Image

from hub.data.synthetic import draw_field
from space.uploads import MAX_FILE_BYTES

ROOT = Path(__file__).parents[2]


def test_the_api_says_what_it_takes_and_gives(client):
    endpoints = client.view_api(return_format="dict")["named_endpoints"]
    assert endpoints.keys() == {"/classify", "/classify_batch"}
    takes = {name: [part["parameter_name"] for part in endpoint["parameters"]] for name, endpoint in endpoints.items()}
    assert takes == {"/classify": ["image"], "/classify_batch": ["files"]}
    assert [part["label"] for part in endpoints["/classify"]["returns"]] == ["answer"]
    for endpoint in endpoints.values():
        (part,) = endpoint["parameters"]
        assert part["python_type"]["description"].startswith("Smear image")
        assert ".pdf" not in json.dumps(part)
        assert "BloodImage" in json.dumps(part["example_input"])


def test_the_answer_is_as_documented(client, known, tmp_path):
    """`docs/api.md` has a table of the keys of an answer, and one of those of a cell."""
    documented = [
        [key for keys in re.findall(r"^\| (`.+?`) \|", part, re.MULTILINE) for key in re.findall("`(.+?)`", keys)]
        for part in (ROOT / "docs" / "api.md").read_text(encoding="utf-8").split("\n## ")[1:]
    ]
    (tmp_path / "notes.txt").write_text("no image")
    answer, unreadable = client.predict(
        [handle_file(known[0]), handle_file(tmp_path / "notes.txt")], api_name="/classify_batch"
    )
    assert [sorted(answer), sorted(answer["cells"][0])] == [sorted(keys) for keys in documented]
    assert answer.keys() == unreadable.keys()
    cell = answer["cells"][0]
    first, second = sorted(cell["probabilities"].values(), reverse=True)[:2]
    assert cell["probabilities"][cell["label"]] == cell["confidence"] == first
    assert cell["probabilities"][cell["second"]] == second
    assert cell["focus"] > 0
    assert sum(answer["probabilities"].values()) == pytest.approx(1, abs=1e-4)


def test_the_answer_does_not_depend_on_the_format(client, classifier, known, tmp_path):
    path, expected = known
    with Image.open(path) as image:
        image.load()
    forms = [tmp_path / name for name in ("a.bmp", "a.tif", "b.tif", "a.webp", "rgba.png", "turned.png")]
    image.save(forms[0])
    image.save(forms[1], compression="tiff_lzw")
    image.convert("RGBA").save(forms[2])
    image.save(forms[3], lossless=True)
    image.convert("RGBA").save(forms[4])
    exif = Image.Exif()
    exif[0x0112] = 3
    image.transpose(Image.Transpose.ROTATE_180).save(forms[5], exif=exif)
    for form in forms:
        answer = client.predict(handle_file(form), api_name="/classify")
        assert (answer["file"], answer["status"], answer["label"]) == (form.name, "sure", expected["label"])
        assert answer["confidence"] == pytest.approx(expected["confidence"], abs=1e-4)
        assert answer["cells"][0]["box"] == pytest.approx(expected["cells"][0]["box"])


def test_takes_images_of_any_size(client, known, tmp_path):
    with Image.open(known[0]) as image:
        # Just above the size at which Pillow warns of a decompression bomb.
        image.resize((9_500, 9_500)).save(tmp_path / "large.jpg", quality=80)
        image.resize((20, 20)).save(tmp_path / "small.png")
    Image.new("RGB", (30_000, 1), "white").save(tmp_path / "thread.png")
    sizes = {"large.jpg": (9_500, 9_500), "small.png": (20, 20), "thread.png": (30_000, 1)}
    for name, size in sizes.items():
        answer = client.predict(handle_file(tmp_path / name), api_name="/classify")
        assert (answer["width"], answer["height"]) == size
        assert answer["status"] != "unreadable"


def test_a_batch_keeps_its_order_and_its_bad_files(client, folder, tmp_path):
    (tmp_path / "notes.txt").write_text("no image")
    paths = [folder / "six.png", tmp_path / "notes.txt", folder / "monocyte-0.png"]
    answers = client.predict([handle_file(path) for path in paths], api_name="/classify_batch")
    assert [answer["file"] for answer in answers] == ["six.png", "notes.txt", "monocyte-0.png"]
    assert len(answers[0]["cells"]) == 6
    assert answers[1]["status"] == "unreadable"
    assert client.predict([], api_name="/classify_batch") == []


def test_no_file_of_the_server_is_read(url, client):
    secret = ROOT / "LICENSE"
    for path in (secret, "/etc/passwd", ROOT / "hub" / "checkpoint" / "model.safetensors"):
        assert httpx.get(f"{url}/gradio_api/file={path}").status_code in (403, 404)
    for path in (secret, "/etc/passwd"):
        answer = httpx.post(
            f"{url}/gradio_api/call/classify",
            json={"data": [{"path": str(path), "meta": {"_type": "gradio.FileData"}}]},
            timeout=30,
        )
        event = answer.json()["event_id"]
        said = httpx.get(f"{url}/gradio_api/call/classify/{event}", timeout=30).text
        assert said.startswith("event: error")


def test_an_upload_has_a_limit(url):
    content = io.BytesIO(bytes(MAX_FILE_BYTES + 1))
    answer = httpx.post(f"{url}/gradio_api/upload", files={"files": ("a.png", content)}, timeout=120)
    assert answer.status_code == 413


def test_fifty_clients_get_their_own_answers_while_a_large_field_is_analysed(connect, classifier, tmp_path):
    """Each client's image has its cell elsewhere, so that a mixed-up answer shows."""
    field = Image.new("RGB", (1600, 1200))
    for place in range(100):
        field.paste(draw_field("eosinophil", place, (160, 120)), (place % 10 * 160, place // 10 * 120))
    field.save(tmp_path / "field.png")
    paths, expected = [], []
    for number in range(50):
        path = tmp_path / f"{number}.png"
        draw_field(("lymphocyte", "monocyte", "neutrophil")[number % 3], 100 + number, (160, 120)).save(path)
        paths.append(path)
    for answer, _ in classifier.answers([(path.name, str(path)) for path in paths], 64):
        expected.append((answer["file"], answer["status"], answer["label"], [cell["box"] for cell in answer["cells"]]))
    together = threading.Barrier(50, timeout=300)

    def ask(number: int) -> int:
        client = connect()
        together.wait()
        right = 0
        for _ in range(5):
            answer = client.predict(handle_file(paths[number]), api_name="/classify")
            boxes = [cell["box"] for cell in answer["cells"]]
            right += (answer["file"], answer["status"], answer["label"], boxes) == expected[number]
        return right

    with ThreadPoolExecutor(51) as pool:
        large = pool.submit(connect().predict, handle_file(tmp_path / "field.png"), api_name="/classify")
        assert list(pool.map(ask, range(50))) == [5] * 50
        assert len(large.result()["cells"]) > 50
