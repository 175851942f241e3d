"""The page as its visitors meet it, in a browser: from the start page to the answer to one image."""

import base64
import json
import re
import shutil

import pytest
from PIL import Image
from playwright.sync_api import expect

from hub.data.synthetic import draw_field
from space.texts import CELL_TYPES, PAGE_TEXTS
from tests.space.browsing import (
    DESK,
    LANDSCAPE,
    PHONE,
    ROOT,
    assert_nothing_is_cut,
    drop,
    kept,
    serious_violations,
    settle,
    shot,
)

EXAMPLES = sorted((ROOT / "examples").glob("*.jpg"))
pytestmark = pytest.mark.skipif(shutil.which("chromium") is None, reason="chromium is not installed")


def test_a_start_page_that_says_what_this_is_and_shows_an_answer(visit):
    page = visit(viewport=LANDSCAPE)
    for seen in ("Research use only, no diagnosis", PAGE_TEXTS["start.drop"].en, PAGE_TEXTS["start.worked"].en):
        expect(page.get_by_text(seen)).to_be_in_viewport()
    expect(page.locator("#bench .picture")).to_be_in_viewport(ratio=0.2)
    expect(page.locator(".offers img")).to_have_count(len(EXAMPLES))
    types = page.locator(".drop input").get_attribute("accept").split(",")
    assert {".jpg", ".png", ".tif", ".zip"} <= set(types)
    assert ".heic" not in types  # phones convert what they may not give
    assert sessionless(page)
    assert serious_violations(page) == []
    shot(page, "start")


def sessionless(page) -> bool:
    """Whether nothing is kept, as of the worked example."""
    page.evaluate("dispatchEvent(new Event('pagehide'))")
    return page.evaluate("sessionStorage.getItem('wbc-bench')") is None


def test_an_example_is_answered_and_its_box_is_where_the_cell_is(visit, classifier):
    page = visit()
    index = next(index for index, path in enumerate(EXAMPLES) if path.stem == "bccd-neutrophil")
    ((answer, _),) = classifier.answers([(EXAMPLES[index].name, str(EXAMPLES[index]))], 64)
    page.locator(f".offers button[data-index='{index}']").click()
    settle(page)
    assert answer["status"] == "sure"
    verdict = page.locator(".cell .verdict")
    expect(verdict.locator("h2")).to_have_text(answer["label"].capitalize())
    assert f"{min(99, round(100 * answer['confidence']))} %" in verdict.inner_text()
    expect(page.locator(".start > .drop")).to_be_hidden()  # folded into one line
    picture, box = page.locator(".stage .picture").bounding_box(), page.locator(".box.chosen").bounding_box()
    left, top, right, _ = (side * picture["width"] / answer["width"] for side in answer["cells"][0]["box"])
    assert box["x"] - picture["x"] == pytest.approx(left, abs=2)
    assert box["y"] - picture["y"] == pytest.approx(top, abs=2)
    assert box["width"] == pytest.approx(right - left, abs=3)
    # The heat map is off until it is asked for, and lies within the crop.
    expect(page.locator("canvas.heat")).to_have_count(0)
    page.get_by_label("What influenced the answer").check()
    expect(page.locator(".crop canvas.heat").first).to_be_visible()
    border = page.locator(".crop canvas.heat").first.evaluate("""canvas => {
        const { data, width } = canvas.getContext("2d").getImageData(0, 0, canvas.width, 1);
        return Math.max(...Array.from({ length: width }, (_, x) => data[4 * x + 3]));
    }""")
    assert border <= 2
    shot(page, "one-image")


@pytest.mark.parametrize("size", [(640, 480), (400, 400), (300, 600)], ids=["landscape", "square", "portrait"])
def test_an_image_keeps_its_ratio_in_every_window(visit, tmp_path, size):
    with Image.open(next(path for path in EXAMPLES if path.stem == "bccd-neutrophil")) as image:
        image.resize(size).save(tmp_path / "image.png")
    page = visit()
    drop(page, tmp_path / "image.png")
    for width, height in ((1920, 950), (1440, 900), (1366, 650), (768, 1024), (390, 844)):
        page.set_viewport_size({"width": width, "height": height})
        page.wait_for_timeout(300)
        picture, stage = (page.locator(f".stage{part}").first.bounding_box() for part in (" .picture", ""))
        assert picture["width"] / picture["height"] == pytest.approx(size[0] / size[1], rel=0.01)
        # Whole, and as large as the stage lets it be.
        assert max(picture["width"] / stage["width"], picture["height"] / stage["height"]) == pytest.approx(
            1, abs=0.01
        )


def test_zooms_by_wheel_keys_and_buttons_and_pans(visit, known):
    page = visit()
    drop(page, known[0])
    picture, level = page.locator(".stage .picture"), page.locator(".zoom-level")
    before = picture.bounding_box()
    page.locator(".stage").hover()
    page.mouse.wheel(0, -300)
    expect(level).not_to_have_text("100 %")
    assert picture.bounding_box()["width"] > 1.5 * before["width"]
    page.locator(".stage").focus()
    at = picture.bounding_box()["x"]
    page.keyboard.press("ArrowLeft")
    assert picture.bounding_box()["x"] > at
    page.get_by_role("button", name="Fit").click()
    expect(level).to_have_text("100 %")
    page.get_by_role("button", name="Zoom in").click()
    expect(level).to_have_text("140 %")
    page.get_by_label(PAGE_TEXTS["scale.label"].en).fill("0.1")
    page.keyboard.press("Tab")
    expect(page.locator(".scale-bar")).to_have_text(re.compile(r"^\d+ .m$"))
    micrometres = int(page.locator(".scale-bar").inner_text().split()[0])
    drawn = page.locator(".scale-bar").bounding_box()["width"]
    assert drawn == pytest.approx(micrometres / 0.1 * picture.bounding_box()["width"] / known[1]["width"], abs=1)


def test_names_of_near_cells_do_not_cover_each_other(visit, tmp_path):
    near = Image.new("RGB", (960, 240))
    for place in range(12):
        near.paste(draw_field("lymphocyte", place, (160, 120)), (place % 6 * 160, place // 6 * 120))
    near.save(tmp_path / "near.png")
    page = visit(viewport=PHONE)
    drop(page, tmp_path / "near.png")
    boxes = page.locator(".stage .box")
    assert boxes.count() > 8
    for scale in ("100 %", "140 %"):
        expect(page.locator(".zoom-level")).to_have_text(scale)
        names = boxes.locator("b").evaluate_all(
            """names => names.filter((name) => getComputedStyle(name).visibility === "visible").map((name) => {
                const { left, top, right, bottom } = name.getBoundingClientRect();
                return [left, top, right, bottom];
            })"""
        )
        assert 3 <= len(names) < boxes.count()  # there is no room for all
        for index, (left, top, right, bottom) in enumerate(names):
            for other in names[:index]:
                assert right <= other[0] + 1 or other[2] <= left + 1 or bottom <= other[1] + 1 or other[3] <= top + 1
        page.get_by_role("button", name="Zoom in").click()
    page.get_by_role("button", name="Fit").click()
    shot(page, "near-cells")
    page.locator(".stage .box.unnamed:not(.chosen)").first.hover()
    expect(page.locator(".stage .box.unnamed:hover b")).to_be_visible()


@pytest.mark.parametrize("viewport", [LANDSCAPE, PHONE], ids=["landscape", "phone"])
def test_the_count_is_not_cut_beside_a_cell_with_attributes(visit, viewport):
    page = visit(viewport=viewport)
    drop(page, *EXAMPLES)
    page.locator(".tile").first.click()
    expect(page.locator(".cell .facts").first).to_be_visible()
    expect(page.locator(".count .mark").first).to_be_visible()
    table = page.locator(".count .scroll")
    assert table.evaluate("table => table.scrollWidth - table.clientWidth") <= 0
    table.scroll_into_view_if_needed()
    shot(page, f"count-{viewport['width']}")


def test_takes_a_pasted_image(visit, folder):
    page = visit()
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
    settle(page)
    expect(page.locator(".stage .box")).to_have_count(6)


def test_says_why_a_file_is_no_image_and_goes_on(visit, known, tmp_path):
    page = visit(locale="zh-CN")
    (tmp_path / "a<b>paper.jpg").write_bytes(b"%PDF-1.7")
    drop(page, tmp_path / "a<b>paper.jpg")
    verdict = page.locator(".cell .verdict")
    expect(verdict.locator("h2")).to_have_text("无法读取此文件")
    expect(verdict).to_contain_text("paper")
    expect(verdict).to_contain_text("格式的图像")
    assert verdict.locator("b").count() == 0
    page.get_by_role("button", name="English").click()
    expect(verdict).to_contain_text("it is no image of the formats")
    Image.new("RGB", (400, 300), "white").save(tmp_path / "blank.png")
    drop(page, tmp_path / "blank.png")
    expect(verdict.locator("h2")).to_have_text("No white cell found")
    drop(page, known[0])
    expect(verdict).to_have_class(re.compile(r"\bsure\b"))


@pytest.mark.parametrize(
    ("remark", "title", "is_guessed"),
    [
        ("no smear", "No blood smear", False),
        ("unfamiliar stain", "Unfamiliar stain or light", True),
        ("out of focus", "Out of focus", True),
    ],
)
def test_a_refused_cell_says_why_and_a_guess_is_one_click_away(visit, known, remark, title, is_guessed):
    page = visit()
    drop(page, known[0])
    work = kept(page)
    work["cells"][0] |= {"known": False, "remark": remark}
    page.context.add_init_script(f"sessionStorage.setItem('wbc-bench', {json.dumps(json.dumps(work))})")
    page.reload()
    verdict = page.locator(".cell .verdict")
    expect(verdict.locator("h2")).to_have_text(title)
    guess = verdict.locator(".guess p")
    if not is_guessed:
        assert guess.count() == 0
        return
    expect(guess).to_be_hidden()
    verdict.locator(".guess summary").click()
    expect(guess).to_contain_text(known[1]["label"])
    page.locator(".confirm").click()
    expect(verdict.locator("h2")).to_have_text(known[1]["label"].capitalize())


def test_switches_the_language_at_once_and_for_good(visit, known):
    page = visit()
    drop(page, known[0])
    page.get_by_role("button", name="中文").click()
    expect(page.locator(".cell .verdict h2")).to_have_text(CELL_TYPES[known[1]["label"]].name.zh)
    assert page.locator("html").get_attribute("lang") == "zh-CN"
    page.reload()
    expect(page.locator(".cell .verdict h2")).to_have_text(CELL_TYPES[known[1]["label"]].name.zh)
    page.get_by_role("button", name="English").click()
    expect(page.locator(".cell .verdict h2")).to_have_text(known[1]["label"].capitalize())


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_shows_the_answer_first_and_cuts_nothing(visit, known, scheme):
    page = visit(viewport=PHONE, color_scheme=scheme, has_touch=True)
    expect(page.get_by_text("Research use only, no diagnosis")).to_be_in_viewport()
    assert_nothing_is_cut(page)
    drop(page, known[0], *EXAMPLES[:4])
    expect(page.locator(".cell .verdict h2")).to_be_in_viewport()
    above = [page.locator(part).bounding_box()["y"] for part in (".cell", ".panes > .main", ".count")]
    assert above == sorted(above)
    for view in ("gallery", "field", "files"):
        page.locator(f"[data-view={view}]").click()
        assert_nothing_is_cut(page)
        assert serious_violations(page) == []
        shot(page, f"phone-{view}-{scheme}")


def test_shows_the_figures_of_results_json(visit):
    results = json.loads((ROOT / "hub" / "checkpoint" / "results.json").read_text(encoding="utf-8"))
    page = visit(viewport=DESK)
    page.get_by_role("link", name="About the model").click()
    about = page.locator("#about")
    expect(about.locator("h2").first).to_be_in_viewport()
    subsets = results["splits"]["test"]["subsets"]
    for figures in (subsets["bccd_4_classes"], subsets["pbc"], results["labs"]["lisc"]):
        low, high = figures["intervals"]["accuracy"]
        expect(about).to_contain_text(f"{100 * figures['accuracy']:.1f} ({100 * low:.1f}–{100 * high:.1f}) %")
    assert str(ROOT) not in page.content()
