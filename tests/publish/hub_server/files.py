"""Answers about the files of a revision, and the files themselves."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from urllib.parse import unquote

from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from tests.publish.hub_server.store import Blob, HubError, git_oid

if TYPE_CHECKING:
    from tests.publish.hub_server.server import HubServer

PAGE = 50  # entries of a tree or a history in one answer


async def tree(hub: HubServer, request: Request, kind: str, repo_id: str, revision: str, path: str = "") -> Response:
    commit = hub.repo_for(request, kind, repo_id).commit(revision)
    recursive = request.query_params.get("recursive", "").lower() in ("true", "1")
    prefix = f"{path}/" if path else ""
    entries = {}
    for name, blob in commit.tree.items():
        if name.startswith(prefix):
            parts = name.removeprefix(prefix).split("/")
            for depth in range(1, len(parts) if recursive else min(len(parts), 2)):
                folder = prefix + "/".join(parts[:depth])
                entries[folder] = _folder_entry(folder)
            if recursive or len(parts) == 1:
                entries[name] = _file_entry(name, blob)
    if path and not entries:
        raise HubError(404, f"{path} does not exist on {revision}", "EntryNotFound")
    return page(request, [entries[name] for name in sorted(entries)])


async def paths_info(hub: HubServer, request: Request, kind: str, repo_id: str, revision: str) -> Response:
    tree = hub.repo_for(request, kind, repo_id).commit(revision).tree
    if request.headers.get("content-type", "").startswith("application/json"):
        paths = (await request.json())["paths"]
    else:
        form = await request.body()
        pairs = [part.partition("=") for part in form.decode().split("&")]
        paths = [unquote(value.replace("+", " ")) for name, _, value in pairs if name == "paths"]
    found = []
    for path in (path.rstrip("/") for path in paths):
        if path in tree:
            found.append(_file_entry(path, tree[path]))
        elif any(name.startswith(f"{path}/") for name in tree):
            found.append(_folder_entry(path))
    return JSONResponse(found)


async def resolve(
    hub: HubServer, request: Request, repo_id: str, revision: str, path: str, prefix: str = ""
) -> Response:
    kind = prefix.removesuffix("s/") or "model"
    commit = hub.repo_for(request, kind, repo_id).commit(revision)
    if path not in commit.tree:
        raise HubError(404, "Entry not found", "EntryNotFound")
    blob = commit.tree[path]
    headers = {"X-Repo-Commit": commit.id, "Accept-Ranges": "bytes"}
    if not blob.lfs:
        return _send(hub, request, blob, headers | {"ETag": f'"{blob.git_oid}"'})
    headers |= {"X-Linked-Etag": f'"{blob.sha256}"', "X-Linked-Size": str(blob.size)}
    return Response(status_code=302, headers=headers | {"Location": f"{hub.cdn_endpoint}/cdn/{blob.sha256}"})


async def cdn(hub: HubServer, request: Request, sha256: str) -> Response:
    blob = Blob(sha256, hub.blob(sha256).stat().st_size, "", lfs=True)
    return _send(hub, request, blob, {"ETag": f'"{sha256}"', "Accept-Ranges": "bytes"})


def _send(hub: HubServer, request: Request, blob: Blob, headers: dict[str, str]) -> Response:
    start, stop, status = 0, blob.size, 200
    if match := re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("range", "")):
        start, stop, status = int(match[1]), min(int(match[2] or blob.size - 1) + 1, blob.size), 206
        if start >= blob.size:
            raise HubError(416, f"a file of {blob.size} bytes has no byte {start}")
        headers |= {"Content-Range": f"bytes {start}-{stop - 1}/{blob.size}"}
    headers |= {"Content-Length": str(stop - start), "Content-Type": "application/octet-stream"}
    if request.method == "HEAD":
        return Response(status_code=status, headers=headers)

    def pieces():
        with open(hub.blob(blob.sha256), "rb") as file:
            file.seek(start)
            for at in range(start, stop, 2**16):
                yield file.read(min(2**16, stop - at))

    return StreamingResponse(pieces(), status, headers)


def page(request: Request, entries: list) -> Response:
    start = int(request.query_params.get("cursor", 0))
    headers = {}
    if start + PAGE < len(entries):
        following = request.url.include_query_params(cursor=start + PAGE)
        headers["Link"] = f'<{following}>; rel="next"'
    return JSONResponse(entries[start : start + PAGE], headers=headers)


def _file_entry(path: str, blob: Blob) -> dict:
    entry = {"type": "file", "path": path, "size": blob.size, "oid": blob.git_oid}
    return entry | ({"lfs": {"oid": blob.sha256, "size": blob.size, "pointerSize": 134}} if blob.lfs else {})


def _folder_entry(path: str) -> dict:
    return {"type": "directory", "path": path, "size": 0, "oid": git_oid(path.encode())}
