"""The demo as its visitors meet it: a browser, `gradio_client`, and a server in a process of its own."""

import base64
import csv
import io
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import axe_playwright_python
import httpx
import numpy as np
import pytest
from gradio_client import Client, handle_file
from PIL import Image, ImageDraw
from playwright.sync_api import expect, sync_playwright

import app
from hub.data.synthetic import draw_field
from hub.study.ood import sample_images

ROOT = Path(__file__).parents[2]
BCCD, PBC = (Path(os.environ[name]) if name in os.environ else None for name in ("WBC_BCCD_DIR", "WBC_PBC_DIR"))
CHROMIUM = shutil.which("chromium")
SHOTS = ROOT / "outputs" / "screenshots"
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    """The address of a server with the bundled weights: the page alone in a folder, without this repository, as in a
    Space, and without a network."""
    folder = tmp_path_factory.mktemp("space")
    shutil.copy(ROOT / "app.py", folder)
    shutil.copytree(ROOT / "examples", folder / "examples")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"HF_HUB_OFFLINE": "1", "GRADIO_TEMP_DIR": str(tmp_path_factory.mktemp("gradio"))}
    environment |= {"WBC_MODEL": str(ROOT / "hub" / "checkpoint"), "GRADIO_SERVER_PORT": str(port)}
    process = subprocess.Popen([sys.executable, "app.py"], cwd=folder, env=environment)
    address = f"http://127.0.0.1:{port}"
    for _ in range(240):
        try:
            httpx.get(address, timeout=30)
            break
        except httpx.HTTPError:
            assert process.poll() is None, "the server ended"
            time.sleep(0.5)
    yield address
    process.terminate()
    process.wait(30)


@pytest.fixture(scope="module")
def client(url):
    return Client(url, verbose=False)


@pytest.fixture(scope="module")
def classifier():
    return app.Classifier(str(ROOT / "hub" / "checkpoint"))


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def visit(browser, url):
    """Opens the page; at the end there must be no error in the console and no request to anybody else."""
    errors, strangers = [], []

    def visit(**options):
        page = browser.new_context(
            **{"locale": "en-US", "viewport": {"width": 1180, "height": 900}} | options
        ).new_page()
        page.set_default_timeout(60_000)
        page.on("console", lambda message: message.type == "error" and errors.append(message.text))
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on(
            "request",
            lambda request: (
                request.url.startswith("http") and url not in request.url and strangers.append(request.url)
            ),
        )
        page.goto(url)
        page.locator("#image").wait_for()
        return page

    yield visit
    assert errors == []
    assert strangers == []


def drop(page, path, field="image"):
    page.locator(f"#{field} input[type=file]").set_input_files(path)


def shot(page, name):
    SHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SHOTS / f"{name}.png", full_page=True)


def serious(page) -> list[str]:
    """What axe-core finds serious or critical on a page."""
    page.evaluate(Path(axe_playwright_python.__file__).with_name("axe.min.js").read_text())
    found = page.evaluate("axe.run()")["violations"]
    return [
        f"{violation['id']}: {violation['nodes'][0]['html'][:200]}"
        for violation in found
        if violation["impact"] in ("serious", "critical")
    ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Drawn fields of one cell each, `<type>-<seed>.png`, and one of six cells."""
    folder = tmp_path_factory.mktemp("drawn")
    for label in ("eosinophil", "lymphocyte", "monocyte", "neutrophil"):
        for seed in range(8):
            draw_field(label, seed).save(folder / f"{label}-{seed}.png")
    six = Image.new("RGB", (960, 480))
    for k in range(6):
        six.paste(draw_field(("lymphocyte", "neutrophil")[k % 2], k), (k % 3 * 320, k // 3 * 240))
    six.save(folder / "six.png")
    return folder


@pytest.fixture(scope="module")
def known(classifier, folder):
    """A drawn field whose cell the model knows, and the answer to it."""
    for path in sorted(folder.glob("*-*.png")):
        ((answer, _),) = classifier.answers([(path.name, str(path))], 64)
        if answer["status"] == "sure":
            return path, answer
    raise AssertionError("no drawn cell looks like one to the model")


@needs_browser
def test_drops_an_image_and_sees_what_the_model_sees(visit, known):
    path, answer = known
    page = visit()
    drop(page, path)
    verdict = page.locator("#verdict .verdict")
    expect(verdict.locator("h2 .en")).to_have_text(answer["label"].capitalize())
    expect(verdict).to_contain_text(app.FACTS[answer["label"]][0])
    label = page.locator(".en[data-testid=label], .en:has([data-testid=label])").first
    expect(label).to_contain_text(answer["label"])
    # Every probability is in sight.
    right = label.bounding_box()["x"] + label.bounding_box()["width"]
    for number in label.locator(".confidence").all():
        assert number.bounding_box()["x"] + number.bounding_box()["width"] <= right
    heat = page.locator("#stage img.heat.chosen")
    assert answer["label"] in heat.get_attribute("alt")
    before = heat.evaluate("image => getComputedStyle(image).opacity")
    page.locator("#heat input[type=range]").fill("90")
    page.wait_for_function("getComputedStyle(document.querySelector('#stage img.heat.chosen')).opacity === '0.9'")
    assert before == "0.5"
    # The box is where the cell is.
    field, box = (page.locator(f"#stage {part}").first.bounding_box() for part in (".field", ".box"))
    left, top, right, _ = (value * field["width"] / answer["width"] for value in answer["cells"][0]["box"])
    assert box["x"] - field["x"] == pytest.approx(left, abs=3)
    assert box["y"] - field["y"] == pytest.approx(top, abs=3)
    assert box["width"] == pytest.approx(right - left, abs=3)
    shot(page, "one-image")
    assert serious(page) == []


@needs_browser
def test_pastes_an_image_and_chooses_among_its_cells(visit, folder):
    page = visit()
    # Somebody quick, who clicks before the row of cells is there.
    page.evaluate("""() => {
        const quick = new MutationObserver(() => {
            const box = document.querySelectorAll("#stage .box")[4];
            if (box) quick.disconnect(), box.click();
        });
        quick.observe(document.body, { subtree: true, childList: true });
    }""")
    content = base64.b64encode((folder / "six.png").read_bytes()).decode()
    page.evaluate(
        """content => {
            const bytes = Uint8Array.from(atob(content), (letter) => letter.charCodeAt(0));
            const clipboardData = new DataTransfer();
            clipboardData.items.add(new File([bytes], "six.png", { type: "image/png" }));
            document.dispatchEvent(new ClipboardEvent("paste", { clipboardData }));
        }""",
        content,
    )
    boxes, row = page.locator("#stage .box"), page.locator("#cells input")
    expect(boxes).to_have_count(6)
    for chosen, choose in (
        (4, lambda: None),
        (3, lambda: boxes.nth(3).press("Enter")),
        (0, lambda: row.nth(0).press("Space")),
    ):
        choose()
        expect(page.locator("#stage .box.chosen")).to_have_attribute("data-cell", str(chosen))
        expect(row.nth(chosen)).to_be_checked()
        name = boxes.nth(chosen).get_attribute("aria-label").split(": ")[1].split(",")[0]
        title = "This does not look like a blood smear" if name == "unknown" else name
        expect(page.locator("#verdict .verdict .en").first).to_contain_text(title, ignore_case=True)


@needs_browser
def test_says_why_a_file_is_no_image_and_goes_on(visit, known, tmp_path):
    page = visit()
    (tmp_path / "a<b>paper.jpg").write_bytes(b"%PDF-1.7")
    drop(page, tmp_path / "a<b>paper.jpg")
    verdict = page.locator("#verdict .verdict")
    expect(verdict.locator(".en").first).to_have_text("This file cannot be read")
    expect(verdict).to_contain_text("paper")
    assert verdict.locator("b").count() == 0
    Image.new("RGB", (400, 300), "white").save(tmp_path / "blank.png")
    drop(page, tmp_path / "blank.png")
    expect(verdict.locator(".en").first).to_have_text("No white cell found")
    shot(page, "nothing-found")
    drop(page, known[0])
    expect(verdict).to_have_class(re.compile(r"\bsure\b"))


@needs_browser
def test_clicks_an_example(visit):
    page = visit()
    page.get_by_role("button", name="Examples, drawn by a program").nth(3).click()
    expect(page.locator("#verdict .verdict")).to_be_visible()


@needs_browser
def test_drops_thirty_files_and_reads_the_table(visit, folder, classifier, tmp_path):
    paths = sorted(folder.glob("*-*.png"))[:26]
    bad = {"empty.png": b"", "=SUM(A1).txt": b"no image", "cut.png": paths[0].read_bytes()[:3000]}
    for name, content in bad.items():
        (tmp_path / name).write_bytes(content)
    with zipfile.ZipFile(tmp_path / "more.zip", "w") as archive:
        archive.write(folder / "six.png", "a/six.png")
        archive.writestr("__MACOSX/a/._six.png", b"hidden")
    page = visit()
    page.get_by_role("tab", name="Many images").click()
    drop(page, [*paths, *(tmp_path / name for name in bad), tmp_path / "more.zip"], "files")
    summary = page.locator("#summary")
    expect(summary.get_by_role("status")).to_contain_text("27 images read, 3 unreadable", timeout=120_000)
    with page.expect_download() as download:
        page.locator("#summary a.csv").click()
    with open(download.value.path(), newline="", encoding="utf-8-sig") as file:
        rows = {row["file"]: row for row in csv.DictReader(file)}
    assert len(rows) == 30
    for path in paths:
        ((answer, _),) = classifier.answers([(path.name, str(path))], 64)
        row = rows[path.name]
        assert row["type"] == (answer["label"] or "")
        assert int(row["cells"]) == len(answer["cells"])
        if answer["label"]:
            assert float(row["confidence"]) == pytest.approx(answer["confidence"], abs=2e-3)
            assert sum(float(row[label]) for label in classifier.labels) == pytest.approx(1, abs=1e-3)
    assert int(rows["more.zip/a/six.png"]["cells"]) == 6
    assert rows["empty.png"]["type"] == ""
    assert "no image" in rows["empty.png"]["remark"]
    assert "truncated" in rows["cut.png"]["remark"].lower()
    assert not any(name.startswith("=") for name in rows)
    shares = [float(text.split(" %")[0]) for text in page.locator("#summary .bar .figure").all_inner_texts()]
    assert sum(shares) == pytest.approx(100, abs=0.5)
    counted = sum(int(row["cells"]) for row in rows.values())
    said = summary.get_by_role("status").inner_text()
    numbers = [int(word) for word in said.replace(",", "").replace(";", "").split() if word.isdigit()]
    assert numbers[2] + numbers[4] == counted
    expect(page.locator("div.en", has=page.locator("table.header-table")).first).to_contain_text(paths[0].name)
    page.wait_for_timeout(500)
    shot(page, "many-images")
    assert serious(page) == []


@needs_browser
def test_speaks_chinese_by_the_browser_and_by_choice(visit, known):
    path, answer = known
    page = visit(locale="zh-CN")
    expect(page.get_by_role("tab", name="批量图像")).to_be_visible()
    drop(page, path)
    title = page.locator("#verdict .verdict h2")
    expect(title).to_have_text(app.NAMES[answer["label"]][1], use_inner_text=True)
    expect(page.get_by_text("仅供研究，不用于诊断").first).to_be_visible()
    shot(page, "chinese")

    page = visit()
    drop(page, path)
    title = page.locator("#verdict .verdict h2")
    expect(title).to_have_text(answer["label"].capitalize(), use_inner_text=True)
    page.get_by_role("button", name="English / 中文").click()
    page.get_by_role("combobox", name="Language").click()
    page.get_by_role("option", name="简体中文").click()
    expect(title).to_have_text(app.NAMES[answer["label"]][1], use_inner_text=True)
    expect(page.get_by_role("tab", name="单张图像")).to_be_attached()


@needs_browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_fits_a_phone_in_light_and_dark(visit, known, scheme):
    page = visit(viewport={"width": 375, "height": 800}, color_scheme=scheme)
    expect(page.get_by_text("Research use only, no diagnosis")).to_be_in_viewport()
    drop(page, known[0])
    expect(page.locator("#verdict .verdict")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= 375
    shot(page, f"phone-{scheme}")
    assert serious(page) == []
    page.get_by_role("tab", name="About").click()
    expect(page.locator(".about table").first).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= 375
    assert serious(page) == []


@needs_browser
def test_tells_the_figures_that_lie_with_the_weights(visit):
    results = json.loads((ROOT / "hub" / "checkpoint" / "results.json").read_text())
    page = visit()
    page.get_by_role("tab", name="About").click()
    about = page.locator(".about")
    for key in ("bccd_4_classes", "pbc"):
        figures = results["splits"]["test"]["subsets"][key]
        low, high = figures["intervals"]["accuracy"]
        expect(about).to_contain_text(f"{100 * figures['accuracy']:.1f} ({100 * low:.1f}–{100 * high:.1f}) %")
    assert str(ROOT) not in page.content()
    shot(page, "about")


def test_the_api_says_what_it_takes_and_gives(client):
    endpoints = client.view_api(return_format="dict")["named_endpoints"]
    assert endpoints.keys() == {"/classify", "/classify_batch"}
    takes = {name: [part["parameter_name"] for part in endpoint["parameters"]] for name, endpoint in endpoints.items()}
    assert takes == {"/classify": ["image"], "/classify_batch": ["files"]}
    assert [part["label"] for part in endpoints["/classify"]["returns"]] == ["answer"]


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
        image.resize((12_000, 12_000)).save(tmp_path / "large.jpg", quality=80)
        image.resize((20, 20)).save(tmp_path / "small.png")
    Image.new("RGB", (30_000, 1), "white").save(tmp_path / "thread.png")
    sizes = {"large.jpg": (12_000, 12_000), "small.png": (20, 20), "thread.png": (30_000, 1)}
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


def archive_of(path, members: dict):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return str(path)


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ({"a.png": b"", "../../b.png": b""}, "leads out of it"),
        ({"/etc/a.png": b""}, "leads out of it"),
        ({"C:\\\\a.png": b""}, "leads out of it"),
        ({"a/b.ZIP": b""}, "another archive"),
        ({"a.bmp": bytes(3 << 20)}, "unpacks to 3 MiB"),
    ],
)
def test_refuses_archives_that_nobody_would_make(monkeypatch, tmp_path, members, reason):
    monkeypatch.setattr(app, "MOST_UNPACKED", 2 << 20)
    ((name, error),) = app.sources_of([archive_of(tmp_path / "a.zip", members)])
    assert name == "a.zip"
    assert reason in str(error)


def test_an_archive_that_lies_of_its_sizes_costs_no_memory(monkeypatch, tmp_path):
    path = tmp_path / "a.zip"
    archive_of(path, {"a.bmp": bytes(8 << 20), "b.png": b"no image"})
    content = bytearray(path.read_bytes())
    # Of the central directory's first entry, the size: 8 MiB become 100 bytes.
    at = content.index(b"PK\x01\x02") + 24
    content[at : at + 4] = (100).to_bytes(4, "little")
    path.write_bytes(content)
    (_, first), (_, second) = app.sources_of([str(path)])
    assert isinstance(first, ValueError)
    assert second.read() == b"no image"
    for damaged in (b"", b"PK\x03\x04 and no more"):
        path.write_bytes(damaged)
        ((name, error),) = app.sources_of([str(path)])
        assert name == "a.zip"
        assert "zip" in str(error).lower()


def test_more_than_a_thousand_images_are_cut(monkeypatch, classifier, folder, tmp_path):
    monkeypatch.setattr(app, "MOST_IMAGES", 3)
    page = app.build(classifier)
    look_at_many = next(fn.fn for fn in page.fns.values() if fn.name == "look_at_many")
    _, summary, english, _ = look_at_many(
        [str(path) for path in sorted(folder.glob("mono*"))[:5]], lambda *_, **__: None
    )
    assert "the others were left out" in summary
    assert len(english["value"]) == 3


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
    content = io.BytesIO(bytes(app.MOST_BYTES + 1))
    answer = httpx.post(f"{url}/gradio_api/upload", files={"files": ("a.png", content)}, timeout=120)
    assert answer.status_code == 413


def test_fifty_clients_get_their_own_answers(url, classifier, tmp_path):
    """Each client's image has its cell elsewhere, so that a mixed-up answer shows."""
    paths, expected = [], []
    for number in range(50):
        path = tmp_path / f"{number}.png"
        draw_field(("lymphocyte", "monocyte", "neutrophil")[number % 3], 100 + number, (160, 120)).save(path)
        paths.append(path)
    for answer, _ in classifier.answers([(path.name, str(path)) for path in paths], 64):
        expected.append((answer["file"], answer["status"], answer["label"], [cell["box"] for cell in answer["cells"]]))
    together = threading.Barrier(50, timeout=300)

    def ask(number: int) -> int:
        client = Client(url, verbose=False)
        together.wait()
        right = 0
        for _ in range(20):
            answer = client.predict(handle_file(paths[number]), api_name="/classify")
            boxes = [cell["box"] for cell in answer["cells"]]
            right += (answer["file"], answer["status"], answer["label"], boxes) == expected[number]
        return right

    with ThreadPoolExecutor(50) as pool:
        assert list(pool.map(ask, range(50))) == [20] * 50


def test_tells_other_images_from_smears(classifier):
    """A cat, a histology slide, a page of text and other photographs, with a blank and a written page."""
    names = {path.stem: path for path in sample_images()}
    page = Image.new("RGB", (800, 600), "white")
    pen = ImageDraw.Draw(page)
    for row in range(30):
        pen.text((20, 20 * row), "Leukocytes are cells of the immune system " * 3, "black")
    foreign = [(stem, str(path)) for stem, path in names.items()]
    foreign += [("blank", Image.new("RGB", (640, 480), "white")), ("written", page)]
    assert {"chelsea", "ihc", "page"} <= names.keys()
    answers = [answer for answer, _ in classifier.answers(foreign, 64)]
    passed = [answer["file"] for answer in answers if answer["status"] not in ("unknown", "empty")]
    assert len(answers) > 20
    assert len(passed) <= 0.01 * len(answers)


@pytest.mark.skipif(BCCD is None or PBC is None, reason="WBC_BCCD_DIR and WBC_PBC_DIR name no folders of real images")
def test_knows_real_smears(classifier):
    paths = sorted((BCCD / "images" / "TEST_SIMPLE").rglob("*.jpeg"))
    for folder in sorted(PBC.iterdir()):
        paths += sorted(folder.iterdir())[:20]
    answers = [answer for answer, _ in classifier.answers([(path.name, str(path)) for path in paths], 64)]
    told = np.array([answer["status"] in ("sure", "doubtful") for answer in answers])
    assert len(told) == 71 + 8 * 20
    assert told.mean() >= 0.98
