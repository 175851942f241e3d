"""A differential read, corrected and exported in a browser, on real cells; every file is read back."""

import csv
import io
import json
import re
import shutil
import zipfile

import pytest
from PIL import Image
from playwright.sync_api import expect

from hub.publish import dataset
from tests.space.browsing import (
    DESK,
    LANDSCAPE,
    ROOT,
    drop,
    export,
    groups,
    kept,
    members,
    png_size,
    serious_violations,
    settle,
    shot,
)

EXAMPLES = sorted((ROOT / "examples").glob("*.jpg"))
KEEP = "work => addEventListener('pagehide', () => sessionStorage.setItem('wbc-bench', work))"
pytestmark = pytest.mark.skipif(shutil.which("chromium") is None, reason="chromium is not installed")


@pytest.fixture(scope="module")
def answered():
    """The work as the first test found it, so that the others need not wait for the answers again."""
    return {}


@pytest.fixture
def work(visit, folder, tmp_path, answered):
    """The page after thirty files, three of them bad, of which one would be a spreadsheet's formula."""
    if answered:
        page = visit(viewport=DESK)
        page.evaluate(KEEP, answered["work"])
        page.reload()
        page.locator("#bench .tile").first.wait_for()
        return page
    bad = {"empty.png": b"", "=SUM(A1).txt": b"no image", "cut.jpg": EXAMPLES[0].read_bytes()[:3000]}
    for name, content in bad.items():
        (tmp_path / name).write_bytes(content)
    drawn = sorted(folder.glob("*-*.png"))[: 26 - len(EXAMPLES)]
    page = visit(viewport=DESK)
    drop(page, *EXAMPLES, *drawn, folder / "six.png", *(tmp_path / name for name in bad))
    answered["work"] = json.dumps(kept(page))
    return page


def test_the_whole_story(work, tmp_path):
    page, said = work, work.locator(".said")
    expect(page.locator(".summary")).to_contain_text("Images 27 · unreadable 3")
    before = groups(page)
    assert serious_violations(page) == []
    shot(page, "gallery")

    page.get_by_label(re.compile("Review first")).check()
    review = groups(page)["review"]
    assert review
    shot(page, "review-first")
    assert serious_violations(page) == []
    page.get_by_label(re.compile("Review first")).uncheck()

    # Four cells by key, one by dragging it.
    moved = before["neutrophil"][:2] + before["lymphocyte"][:1] + before["eosinophil"][:1]
    for number, key in zip(moved, "5350", strict=True):
        page.locator(f".tile[data-cell='{number}']").click()
        page.keyboard.press(key)
        expect(said).to_contain_text("moved to")
    dragged = groups(page)["eosinophil"][0]
    tile, target = page.locator(f".tile[data-cell='{dragged}']"), page.locator(".group[data-group=monocyte] h3")
    target.scroll_into_view_if_needed()
    start, end = tile.bounding_box(), target.bounding_box()
    page.mouse.move(start["x"] + 40, start["y"] + 40)
    page.mouse.down()
    page.mouse.move(start["x"] + 60, start["y"] + 60)
    page.mouse.move(end["x"] + 20, end["y"] + 8)
    page.mouse.up()
    after = groups(page)
    assert {moved[0], moved[2]} <= set(after["basophil"])
    assert {moved[1], dragged} <= set(after["monocyte"])
    assert after["not white"] == [moved[3]]
    page.keyboard.press("u")
    assert dragged in groups(page)["eosinophil"]
    page.keyboard.press("r")
    assert dragged in groups(page)["monocyte"]

    # A cell that the detector missed.
    page.locator(f".tile[data-cell='{before['neutrophil'][2]}']").dblclick()
    expect(page.locator(".stage .box.chosen")).to_be_in_viewport()
    boxes = page.locator(".stage .box").count()
    page.get_by_role("button", name="Fit").click()
    page.get_by_role("button", name="Draw a missed cell").click()
    stage = page.locator(".stage .picture").bounding_box()
    page.mouse.move(stage["x"] + 40, stage["y"] + 30)
    page.mouse.down()
    page.mouse.move(stage["x"] + 140, stage["y"] + 130, steps=3)
    page.mouse.up()
    assert serious_violations(page) == []
    page.keyboard.press("2")
    expect(page.locator(".stage .box")).to_have_count(boxes + 1)
    expect(page.locator(".cell .verdict")).to_contain_text("Drawn and named by hand")
    shot(page, "field")

    state = kept(page)
    page.reload()
    expect(page.locator(".cell .verdict")).to_contain_text("Drawn and named by hand")
    assert kept(page)["cells"] == state["cells"]
    page.locator("[data-view=gallery]").click()
    final = groups(page)
    read_the_exports_back(page, state, final, tmp_path)


def read_the_exports_back(page, state: dict, final: dict, folder) -> None:
    """Every file says what the page shows."""
    cells, fields = state["cells"], state["fields"]
    typed = {number: name for name, found in final.items() if name not in ("refused", "not white") for number in found}
    with open(export(page, "csv", folder), newline="", encoding="utf-8-sig") as file:
        rows = list(csv.DictReader(file))
    table = [row for row in rows if row["cell"]]
    assert len(table) == len(cells) == sum(map(len, final.values()))
    assert {row["file"] for row in rows} == {field["file"].replace("=SUM", "'=SUM") for field in fields}
    by_hand = [cell["id"] for cell in cells if cell["hand"]]
    assert len(by_hand) == 6
    assert sum(row["by_hand"] == "yes" for row in table) == 6
    for label in set(typed.values()):
        assert sum(row["type"] == label for row in table) == len(final[label]), label
    assert sum(row["type"] == "not white" for row in table) == 1
    named = {row["file"]: row["remark"] for row in rows}
    assert "no image" in named["empty.png"]

    coco = json.loads(export(page, "coco", folder).read_text(encoding="utf-8"))
    category = {entry["id"]: entry["name"] for entry in coco["categories"]}
    assert sorted(category[entry["category_id"]] for entry in coco["annotations"]) == sorted(typed.values())
    drawn = next(cell for cell in cells if cell["drawn"])
    left, top, right, bottom = drawn["box"]
    assert [left, top, right - left, bottom - top] in [entry["bbox"] for entry in coco["annotations"]]

    crops = members(export(page, "crops", folder))
    assert sorted(name.split("/")[0] for name in crops) == sorted(typed.values())
    for name, content in crops.items():
        path = folder / "crops" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    built, _ = dataset.build("folder", folder / "built", source=folder / "crops", lab="bench")
    assert sum(map(len, built.values())) == len(typed)

    pictures = members(export(page, "png", folder))
    assert len(pictures) == 27
    shown = {f"{field['file'].rpartition('.')[0]}-cells.png": field for field in fields if field["preview"]}
    for name in ("bccd-neutrophil-cells.png", "six-cells.png"):
        assert png_size(pictures[name]) == (shown[name]["width"], shown[name]["height"])
    with Image.open(io.BytesIO(pictures["bccd-neutrophil-cells.png"])) as image:
        # The colour of basophils, to which the cell was moved.
        assert (0, 114, 178) in {color for _, color in image.convert("RGB").getcolors(1 << 20)}

    report = export(page, "report", folder)
    read_the_report(page, report, final)


def read_the_report(page, path, final: dict) -> None:
    """The report holds everything itself, says the counts, and prints to two pages."""
    html = path.read_text(encoding="utf-8")
    assert not re.search(r"<script|<link|src=\"(?!data:)|url\(", html)
    report = page.context.new_page()
    report.goto(path.as_uri())
    counts = {
        row.get_attribute("data-type"): int(row.locator("td").first.inner_text())
        for row in report.locator("tr[data-type]").all()
    }
    assert counts == {label: len(final[label]) for label in counts}
    assert report.locator("figure").count() >= 10
    assert len(re.findall(rb"/Type /Page\b", report.pdf(prefer_css_page_size=True, print_background=True))) == 2
    report.set_viewport_size({"width": 800, "height": 1130})
    shot(report, "report")
    report.close()


def test_the_count_is_that_of_the_page_and_follows_at_once(work):
    page = work
    white = ("neutrophil", "lymphocyte", "monocyte", "eosinophil", "basophil", "ig")

    def counted() -> dict[str, list[str]]:
        rows = page.locator(".count tr[data-type]").all()
        return {row.get_attribute("data-type"): row.locator("td").all_inner_texts() for row in rows}

    found = groups(page)
    assert {label: int(cells[0]) for label, cells in counted().items()} == {
        label: len(found[label]) for label in white
    }
    total = sum(len(found[label]) for label in white)
    for label, cells in counted().items():
        low, high = wilson(len(found[label]), total)
        assert f"{100 * len(found[label]) / total:.1f} %" in cells[1]
        assert f"{100 * low:.1f}–{100 * high:.1f}" in cells[1]
    expect(page.locator(".count")).to_contain_text(f"Only {total} white cells")
    expect(page.locator(".count")).to_contain_text(f"Platelets: {len(found['platelet'])}")
    page.locator(f".tile[data-cell='{found['platelet'][0]}']").click()
    page.keyboard.press("1")
    assert int(counted()["neutrophil"][0]) == len(found["neutrophil"]) + 1


def wilson(count: int, total: int) -> tuple[float, float]:
    """The interval by another way than the page's: the roots of (p - share)^2 = z^2 p (1 - p) / n."""
    import numpy as np

    z2, share = 1.959964**2 / total, count / total
    low, high = sorted(np.roots([1 + z2, -(2 * share + z2), share**2]).real)
    return max(0.0, low), min(1.0, high)


def test_by_keyboard_alone(work):
    page = work
    page.locator("[data-view=gallery]").focus()
    for _ in range(40):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.classList.contains('tile')"):
            break
    first = int(page.evaluate("document.activeElement.dataset.cell"))
    page.keyboard.press("ArrowRight")
    second = int(page.evaluate("document.activeElement.dataset.cell"))
    assert second != first
    page.keyboard.press("Shift+ArrowRight")
    expect(page.locator(".tile.selected")).to_have_count(2)
    page.keyboard.press("3")
    assert second in groups(page)["monocyte"]
    page.keyboard.press("u")
    assert second not in groups(page)["monocyte"]
    # To the field, where a missed cell is drawn, and back.
    page.keyboard.press("f")
    expect(page.locator(".stage .box:focus")).to_be_visible()
    boxes = page.locator(".stage .box").count()
    page.keyboard.press("d")
    for key in ("ArrowRight", "ArrowDown", "Shift+ArrowRight", "Shift+ArrowDown"):
        page.keyboard.press(key)
    page.keyboard.press("4")
    expect(page.locator(".stage .box")).to_have_count(boxes + 1)
    expect(page.locator(".said")).to_contain_text("Added: eosinophil")
    page.keyboard.press("u")
    expect(page.locator(".stage .box")).to_have_count(boxes)
    page.keyboard.press("g")
    expect(page.locator(".gallery-pane")).to_be_visible()


def test_files_are_listed_with_their_reasons_and_sorted_by_number(work):
    page = work
    page.set_viewport_size(LANDSCAPE)
    page.locator("[data-view=files]").click()
    rows = page.locator("table.files tbody tr")
    expect(rows).to_have_count(30)
    expect(rows.filter(has_text="empty.png")).to_contain_text("no image")
    page.get_by_role("button", name="Cells", exact=True).click()
    numbers = [int(text) for text in page.locator("table.files td:nth-child(2)").all_inner_texts()]
    assert numbers == sorted(numbers, reverse=True)
    assert numbers[0] == 6
    rows.first.get_by_role("button").click()
    expect(page.locator(".stage .box")).to_have_count(6)
    assert serious_violations(page) == []
    page.locator(".export > summary").click()
    assert serious_violations(page) == []
    page.locator(".export > summary").click()
    page.get_by_role("button", name="Clear").click()
    expect(page.locator(".example-note")).to_be_visible()


def test_stopping_keeps_what_is_answered_and_the_page_goes_on(visit, folder, tmp_path):
    with Image.open(folder / "six.png") as image:
        image.save(tmp_path / "six.jpg")
    with zipfile.ZipFile(tmp_path / "many.zip", "w") as archive:
        for number in range(400):
            archive.write(tmp_path / "six.jpg", f"{number}.jpg")
    page = visit()
    page.locator(".drop input").set_input_files(tmp_path / "many.zip")
    # The progress says how many of the 400 are answered; the network takes 16 of them together.
    expect(page.locator("#working")).to_contain_text(re.compile(r"\b(1[7-9]|[2-9]\d|\d{3})/400\b"))
    page.locator(".stop").click()
    page.locator("body:not(.busy)").wait_for(state="attached")
    with open(export(page, "csv", tmp_path), newline="", encoding="utf-8-sig") as file:
        files = {row["file"] for row in csv.DictReader(file)}
    assert 0 < len(files) < 400
    assert files == {f"many.zip/{number}.jpg" for number in range(len(files))}
    drop(page, folder / "six.png")
    expect(page.locator(".stage .box")).to_have_count(6)


def test_adapting_says_what_changed_and_is_taken_back(work, classifier, visit, folder):
    if not hasattr(classifier.model, "adapt"):
        pytest.skip("these weights' code cannot adapt")
    expect(work.get_by_role("button", name="Adapt to this lab")).to_be_hidden()  # the images are gone after a reload
    page = visit(viewport=DESK)
    drop(page, *EXAMPLES, *sorted(folder.glob("*-*.png"))[:20])
    first = groups(page)
    page.locator(f".tile[data-cell='{first['neutrophil'][0]}']").click()
    page.keyboard.press("2")
    page.get_by_role("button", name="Adapt to this lab").click()
    settle(page)
    banner = page.locator(".adapted")
    expect(banner).to_contain_text("answers changed")
    assert kept(page)["adapted"]["on"]
    expect(page.locator(".count th").nth(3)).to_have_text("Before")
    shot(page, "adapted")
    page.get_by_role("button", name="Take back").click()
    expect(banner).to_be_hidden()
    moved = first["neutrophil"].pop(0)
    first["lymphocyte"] = sorted([*first["lymphocyte"], moved])
    assert groups(page) == first
