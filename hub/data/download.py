"""Download files, and resume broken downloads."""

from __future__ import annotations

import http.client
import logging
import os
import time
import urllib.error
import urllib.request
from pathlib import Path

from tqdm.auto import tqdm

from hub.files import UserError

logger = logging.getLogger(__name__)

DOWNLOAD_ATTEMPTS = 5
DOWNLOAD_TIMEOUT_S = 60
DOWNLOAD_CHUNK_BYTES = 1 << 20


def download(url: str, path: str | os.PathLike) -> None:
    """Download a file, by way of a file `path`.incomplete, which a later call resumes.

    A lost connection, a server error (5xx) or "too many requests" (429) is tried again after 1, 2, 4 and 8 s.

    Args:
        url: The address of the file.
        path: The file to write; its folder exists.

    Raises:
        UserError: The server refuses the file.
        OSError: Every attempt failed, or the disk is full.
    """
    path = Path(path)
    incomplete = path.with_name(path.name + ".incomplete")
    for attempt in range(1, DOWNLOAD_ATTEMPTS + 1):
        try:
            _fetch(url, incomplete)
            break
        except urllib.error.HTTPError as error:
            error.close()
            if error.code < 500 and error.code != 429:
                raise UserError(f"{url}: the server answered {error.code} {error.reason}") from error
            failure = error
        except (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError) as error:
            failure = error
        if attempt == DOWNLOAD_ATTEMPTS:
            raise ConnectionError(f"{url}: {failure} ({attempt} attempts); run again to resume") from failure
        logger.warning("%s: %s; trying again", url, failure)
        time.sleep(2 ** (attempt - 1))
    os.replace(incomplete, path)


def _fetch(url: str, incomplete: Path) -> None:
    """One attempt to complete the file `incomplete`, from its end if it holds a beginning."""
    start = incomplete.stat().st_size if incomplete.exists() else 0
    request = urllib.request.Request(url, headers={"User-Agent": "wbc-dataset", "Accept-Encoding": "identity"})
    if start:
        request.add_header("Range", f"bytes={start}-")
    try:
        response = urllib.request.urlopen(request, timeout=DOWNLOAD_TIMEOUT_S)
    except urllib.error.HTTPError as error:
        if not start or error.code != http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            raise
        error.close()
        if error.headers.get("Content-Range") == f"bytes */{start}":
            return  # The file was complete already.
        incomplete.unlink()
        raise ConnectionError("the incomplete file is not a part of the file on the server") from error
    with response:
        resumed = response.status == http.HTTPStatus.PARTIAL_CONTENT
        if resumed and not response.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
            incomplete.unlink()
            raise ConnectionError("the server resumed at the wrong place")
        if not resumed:
            start = 0  # The server ignored the range and sends the whole file.
        length = response.headers.get("Content-Length")
        total = None if length is None else start + int(length)
        with (
            open(incomplete, "ab" if resumed else "wb") as file,
            tqdm(desc="Downloading", total=total, initial=start, unit="B", unit_scale=True, disable=None) as bar,
        ):
            while chunk := response.read(DOWNLOAD_CHUNK_BYTES):
                file.write(chunk)
                bar.update(len(chunk))
    size = incomplete.stat().st_size
    if total is not None and size != total:
        raise ConnectionError(f"the connection was lost after {size:,} of {total:,} bytes")
