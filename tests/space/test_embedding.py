"""The page inside another site's page, as the Hub shows every Space."""

import shutil

import httpx
import pytest
from playwright.sync_api import expect


@pytest.mark.skipif(shutil.which("chromium") is None, reason="chromium is not installed")
def test_answers_in_a_frame_of_another_site(browser, url, known):
    headers = httpx.get(url).headers
    assert "x-frame-options" not in headers
    assert "frame-ancestors" not in headers.get("content-security-policy", "")
    page = browser.new_context(locale="en-US", viewport={"width": 1200, "height": 950}).new_page()
    body = f'<iframe src="{url}" width="1180" height="900"></iframe>'
    page.route("http://elsewhere.test/", lambda route: route.fulfill(content_type="text/html", body=body))
    page.goto("http://elsewhere.test/")
    frame = page.frame_locator("iframe")
    path, answer = known
    frame.locator("input[type=file]").first.set_input_files(path, timeout=60_000)
    expect(frame.locator("h2", has_text=answer["label"].capitalize()).first).to_be_visible(timeout=60_000)
    page.close()
