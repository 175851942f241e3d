"""The page as its visitors meet it, in a browser."""

import base64
import csv
import json
import re
import shutil
import zipfile
from pathlib import Path

import axe_playwright_python
import pytest
from PIL import Image
from playwright.sync_api import expect

from space.texts import CELL_TYPES

ROOT = Path(__file__).parents[2]
SHOTS = ROOT / "outputs" / "screenshots"
pytestmark = pytest.mark.skipif(shutil.which("chromium") is None, reason="chromium is not installed")
expect.set_options(timeout=60_000)  # for machines that are busy otherwise


@pytest.fixture
def visit(browser, url):
    """Opens the page; at the end there must be no error in the console and no request to another host."""
    errors, other_hosts = [], []

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
                request.url.startswith("http") and url not in request.url and other_hosts.append(request.url)
            ),
        )
        page.goto(url)
        page.locator("#image").wait_for()
        return page

    yield visit
    assert errors == []
    assert other_hosts == []


def drop(page, path, field="image"):
    page.locator(f"#{field} input[type=file]").set_input_files(path)


def shot(page, name):
    SHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SHOTS / f"{name}.png", full_page=True)


def serious_violations(page) -> list[str]:
    """Violations of accessibility rules on a page that axe-core rates serious or critical."""
    page.evaluate(Path(axe_playwright_python.__file__).with_name("axe.min.js").read_text(encoding="utf-8"))
    found = page.evaluate("axe.run()")["violations"]
    return [
        f"{violation['id']}: {violation['nodes'][0]['html'][:200]}"
        for violation in found
        if violation["impact"] in ("serious", "critical")
    ]


def test_drops_an_image_and_sees_what_the_model_sees(visit, known):
    path, answer = known
    page = visit()
    drop(page, path)
    verdict = page.locator("#verdict .verdict")
    expect(verdict.locator("h2 .en")).to_have_text(answer["label"].capitalize())
    expect(verdict).to_contain_text(CELL_TYPES[answer["label"]].description.en)
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
    assert serious_violations(page) == []


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


def test_the_upload_fields_name_types_that_phones_convert_theirs_to(visit):
    page = visit()
    for field, archives in (("image", False), ("files", True)):
        upload = page.locator(f"#{field} input[type=file]")
        expect(upload).to_have_attribute("accept", re.compile(r"\.jpg,.*\.png,.*\.tif"))
        types = upload.get_attribute("accept").split(",")
        assert ".heic" not in types
        assert (".zip" in types) == archives
        page.get_by_role("tab", name="Many images").click()


def test_clicks_an_example(visit):
    page = visit()
    page.get_by_role("button", name="eosinophil, PBC").click()
    expect(page.locator("#verdict .verdict h2 .en")).to_have_text("Eosinophil")


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
    for answer, _ in classifier.answers([(path.name, str(path)) for path in paths], 64):
        row = rows[answer["file"]]
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
    assert serious_violations(page) == []


def test_speaks_chinese_by_the_browser_and_by_choice(visit, known):
    path, answer = known
    page = visit(locale="zh-CN")
    expect(page.get_by_role("tab", name="批量图像")).to_be_visible()
    drop(page, path)
    title = page.locator("#verdict .verdict h2")
    expect(title).to_have_text(CELL_TYPES[answer["label"]].name.zh, use_inner_text=True)
    expect(page.get_by_text("仅供研究，不用于诊断").first).to_be_visible()
    shot(page, "chinese")

    page = visit()
    drop(page, path)
    title = page.locator("#verdict .verdict h2")
    expect(title).to_have_text(answer["label"].capitalize(), use_inner_text=True)
    page.get_by_role("button", name="English / 中文").click()
    page.get_by_role("combobox", name="Language").click()
    page.get_by_role("option", name="简体中文").click()
    expect(title).to_have_text(CELL_TYPES[answer["label"]].name.zh, use_inner_text=True)
    expect(page.get_by_role("tab", name="单张图像")).to_be_attached()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_fits_a_phone_in_light_and_dark(visit, known, scheme):
    page = visit(viewport={"width": 375, "height": 800}, color_scheme=scheme)
    expect(page.get_by_text("Research use only, no diagnosis")).to_be_in_viewport()
    drop(page, known[0])
    expect(page.locator("#verdict .verdict")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= 375
    shot(page, f"phone-{scheme}")
    assert serious_violations(page) == []
    page.get_by_role("tab", name="About").click()
    expect(page.locator(".about table").first).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= 375
    assert serious_violations(page) == []


def test_shows_the_figures_of_results_json(visit):
    results = json.loads((ROOT / "hub" / "checkpoint" / "results.json").read_text(encoding="utf-8"))
    page = visit()
    page.get_by_role("tab", name="About").click()
    about = page.locator(".about")
    for key in ("bccd_4_classes", "pbc"):
        figures = results["splits"]["test"]["subsets"][key]
        low, high = figures["intervals"]["accuracy"]
        expect(about).to_contain_text(f"{100 * figures['accuracy']:.1f} ({100 * low:.1f}–{100 * high:.1f}) %")
    assert str(ROOT) not in page.content()
    shot(page, "about")
