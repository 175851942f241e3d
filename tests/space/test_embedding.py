"""The page inside another site's page, as the Hub shows every Space."""

import http.server
import shutil
import threading
from contextlib import contextmanager

import httpx
import pytest
from playwright.sync_api import expect


@contextmanager
def another_site(body):
    """A site of another name that serves one page; it is real, as browsers keep made-up ones from this machine."""

    class Page(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://localhost:{server.server_port}/"
    server.shutdown()


@pytest.mark.skipif(shutil.which("chromium") is None, reason="chromium is not installed")
def test_answers_in_a_frame_of_another_site(browser, url, known):
    headers = httpx.get(url).headers
    assert "x-frame-options" not in headers
    assert "frame-ancestors" not in headers.get("content-security-policy", "")
    page = browser.new_context(locale="en-US", viewport={"width": 1200, "height": 950}).new_page()
    path, answer = known
    with another_site(f'<iframe src="{url}" width="1180" height="900"></iframe>') as address:
        page.goto(address)
        frame = page.frame_locator("iframe")
        frame.locator(".drop input").set_input_files(path, timeout=60_000)
        frame.locator("body.busy").wait_for(state="attached")
        frame.locator("body:not(.busy)").wait_for(state="attached", timeout=60_000)
        expect(frame.locator("h2").filter(has_text=answer["label"].capitalize()).first).to_be_visible()
        page.close()
