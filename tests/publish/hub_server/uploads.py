"""Uploads of large files, and the commits that add them."""

from __future__ import annotations

import base64
import binascii
import fnmatch
import hashlib
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from tests.publish.hub_server.cards import card_errors
from tests.publish.hub_server.store import LFS_NAMES, Blob, HubError, git_oid

if TYPE_CHECKING:
    from tests.publish.hub_server.server import HubServer

PART_BYTES = 16 * 2**20  # what is larger is uploaded in parts of this size
INLINE_BYTES = 10 * 2**20  # what is larger is never taken inside of a commit
LFS_POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:{oid}\nsize {size}\n"


async def validate_yaml(hub: HubServer, request: Request) -> Response:
    asked = await request.json()
    if errors := card_errors(asked["content"], asked["repoType"]):
        return JSONResponse({"errors": [{"message": error} for error in errors], "warnings": []}, 400)
    return JSONResponse({"errors": [], "warnings": []})


async def preupload(hub: HubServer, request: Request, kind: str, repo_id: str, revision: str) -> Response:
    repo = hub.repo_for(request, kind, repo_id, write=True)
    tree = repo.commit(revision).tree
    asked = await request.json()
    ignored = [line.strip() for line in asked.get("gitIgnore", "").splitlines() if line.strip()]
    answers = []
    for file in asked["files"]:
        path, sample = file["path"], base64.b64decode(file["sample"])
        text = b"\0" not in sample and file["size"] <= INLINE_BYTES
        lfs = not text or any(fnmatch.fnmatch(path, pattern) for pattern in LFS_NAMES[kind])
        remote = tree.get(path)
        answers.append(
            {
                "path": path,
                "uploadMode": "lfs" if lfs else "regular",
                "shouldIgnore": any(fnmatch.fnmatch(part, p) for p in ignored for part in path.split("/")),
                "oid": remote and (remote.sha256 if remote.lfs else remote.git_oid),
            }
        )
    return JSONResponse({"files": answers, "commitOid": repo.commit(revision).id})


async def lfs_batch(hub: HubServer, request: Request, repo_id: str, prefix: str = "") -> Response:
    hub.repo_for(request, prefix.removesuffix("s/") or "model", repo_id, write=True)
    asked = await request.json()
    if asked["operation"] != "upload" or "basic" not in asked["transfers"] or asked["hash_algo"] != "sha256":
        raise HubError(422, "only uploads by SHA-256 and the basic transfer are known")
    objects = []
    for wanted in asked["objects"]:
        oid, size = wanted["oid"], wanted["size"]
        if not re.fullmatch("[0-9a-f]{64}", oid):
            raise HubError(422, f"not a SHA-256: {oid}")
        if not hub.blob(oid).exists():
            at = f"{hub.endpoint}/lfs/{oid}/{size}"
            upload = {"href": at}
            if size > PART_BYTES:
                parts = -(-size // PART_BYTES)
                header = {f"{part:05d}": f"{at}/part/{part}" for part in range(1, parts + 1)}
                upload = {"href": f"{at}/complete", "header": header | {"chunk_size": str(PART_BYTES)}}
            wanted["actions"] = {"upload": upload, "verify": {"href": f"{hub.endpoint}/lfs/{oid}/verify"}}
        objects.append(wanted)
    transfer = "multipart" if any(wanted["size"] > PART_BYTES for wanted in objects) else "basic"
    return JSONResponse({"transfer": transfer, "objects": objects})


async def lfs_put(hub: HubServer, request: Request, oid: str, size: str, part: str = "") -> Response:
    temporary = hub.blob(f"{oid}.{part or 'whole'}")
    digest, received = hashlib.sha256(), 0
    with open(temporary, "wb") as file:
        async for piece in request.stream():
            file.write(piece)
            digest.update(piece)
            received += len(piece)
    if part:
        return Response(headers={"ETag": f'"{digest.hexdigest()}"'})
    _accept(hub, temporary, oid, int(size), digest.hexdigest(), received)
    return Response()


async def lfs_complete(hub: HubServer, request: Request, oid: str, size: str) -> Response:
    asked = await request.json()
    whole, digest, received = hub.blob(f"{oid}.whole"), hashlib.sha256(), 0
    with open(whole, "wb") as file:
        for number, part in enumerate(sorted(asked["parts"], key=lambda part: part["partNumber"]), 1):
            path = hub.blob(f"{oid}.{number}")
            if part["partNumber"] != number or not path.exists():
                raise HubError(400, f"part {number} of {oid} is missing")
            content = path.read_bytes()
            if hashlib.sha256(content).hexdigest() != part["etag"].strip('"'):
                raise HubError(400, f"part {number} of {oid} is another one")
            file.write(content)
            digest.update(content)
            received += len(content)
            path.unlink()
    _accept(hub, whole, oid, int(size), digest.hexdigest(), received)
    return JSONResponse({})


def _accept(hub: HubServer, path: Path, oid: str, size: int, sha256: str, received: int) -> None:
    """Make an upload a blob if it is what was announced, and forget it otherwise."""
    if (sha256, received) != (oid, size):
        path.unlink()
        raise HubError(400, f"announced {size} bytes of SHA-256 {oid}, received {received} of {sha256}")
    path.replace(hub.blob(oid))


async def lfs_verify(hub: HubServer, request: Request, oid: str) -> Response:
    hub.token(request)
    asked = await request.json()
    if not hub.blob(oid).exists() or hub.blob(oid).stat().st_size != asked["size"]:
        raise HubError(404, f"{oid} was not uploaded")
    return JSONResponse({})


async def commit(hub: HubServer, request: Request, kind: str, repo_id: str, revision: str) -> Response:
    repo = hub.repo_for(request, kind, repo_id, write=True)
    head = repo.commit(revision)
    lines = [json.loads(line) for line in (await request.body()).splitlines() if line.strip()]
    header = next((line["value"] for line in lines if line["key"] == "header"), None)
    if header is None or not header.get("summary"):
        raise HubError(400, "a commit needs a summary")
    parent = header.get("parentCommit")
    if parent is not None and parent != head.id:
        raise HubError(412, "A commit has happened since. Please refresh and try again.")
    tree = dict(head.tree)
    for line in lines:
        _apply(hub, tree, line["key"], line["value"])
    if "README.md" in tree and (errors := card_errors(_text(hub, tree["README.md"]), kind)):
        raise HubError(400, "; ".join(errors))
    ref = f"refs/heads/{revision}"
    pull_request = None
    if request.query_params.get("create_pr"):
        number = 1 + sum(name.startswith("refs/pr/") for name in repo.refs)
        ref, pull_request = f"refs/pr/{number}", f"{hub.endpoint}/{repo_id}/discussions/{number}"
    commit = hub.add_commit(repo, ref, head.id, header["summary"], header.get("description", ""), tree)
    url = f"{hub.endpoint}/{'' if kind == 'model' else kind + 's/'}{repo_id}/commit/{commit.id}"
    return JSONResponse({"success": True, "commitOid": commit.id, "commitUrl": url, "pullRequestUrl": pull_request})


def _apply(hub: HubServer, tree: dict[str, Blob], key: str, value: dict) -> None:
    """Make one change of a commit to a tree."""
    if key == "file":
        try:
            content = base64.b64decode(value["content"], validate=True)
        except binascii.Error as error:
            raise HubError(400, f"{value['path']} is not base64") from error
        if len(content) > INLINE_BYTES:
            raise HubError(413, f"{value['path']} belongs to LFS: {len(content)} bytes")
        tree[value["path"]] = hub.store(content)
    elif key == "lfsFile":
        path = hub.blob(value["oid"])
        if not path.exists() or path.stat().st_size != value["size"]:
            raise HubError(400, f"{value['path']} was not uploaded before the commit")
        pointer = LFS_POINTER.format(**value)
        tree[value["path"]] = Blob(value["oid"], value["size"], git_oid(pointer.encode()), lfs=True)
    elif key == "deletedFile":
        if tree.pop(value["path"], None) is None:
            raise HubError(404, "A file with this name doesn't exist", "EntryNotFound")
    elif key != "header":
        raise HubError(400, f"a commit cannot hold {key}")


def _text(hub: HubServer, blob: Blob) -> str:
    return hub.blob(blob.sha256).read_text(encoding="utf-8")
