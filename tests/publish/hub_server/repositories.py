"""Answers about repositories, their branches and their history."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from tests.publish.hub_server.cards import SDKS
from tests.publish.hub_server.files import page
from tests.publish.hub_server.store import LFS_NAMES, USER, HubError, Repo

if TYPE_CHECKING:
    from tests.publish.hub_server.server import HubServer

TYPES = ("model", "dataset", "space")


async def whoami(hub: HubServer, request: Request) -> Response:
    if hub.token(request) is None:
        raise HubError(401, "Invalid username or password.")
    return JSONResponse({"type": "user", "name": USER, "orgs": [], "auth": {"accessToken": {"role": "write"}}})


async def create_repo(hub: HubServer, request: Request) -> Response:
    asked = await request.json()
    kind = asked.get("type") or "model"
    repo_id = f"{asked.get('organization') or USER}/{asked['name']}"
    hub.check_writer(request, repo_id)
    if kind not in TYPES:
        raise HubError(400, f"no such type of repository: {kind}")
    if kind == "space" and asked.get("sdk") not in SDKS:
        raise HubError(400, f"a Space needs an sdk of {sorted(SDKS)}, got {asked.get('sdk')}")
    url = f"{hub.endpoint}/{'' if kind == 'model' else kind + 's/'}{repo_id}"
    if (kind, repo_id) in hub.repos:
        raise HubError(409, f"You already created this {kind} repo", url=url)
    private = bool(asked.get("private")) or asked.get("visibility") == "private"
    repo = hub.repos[kind, repo_id] = Repo(repo_id, kind, private, asked.get("sdk"))
    attributes = "".join(f"{name} filter=lfs diff=lfs merge=lfs -text\n" for name in LFS_NAMES[kind])
    tree = {".gitattributes": hub.store(attributes.encode())}
    hub.add_commit(repo, "refs/heads/main", None, "initial commit", "", tree)
    return JSONResponse({"url": url, "name": repo_id, "id": repo_id})


async def info(hub: HubServer, request: Request, kind: str, repo_id: str, revision: str = "main") -> Response:
    repo = hub.repo_for(request, kind, repo_id)
    commit = repo.commit(revision)
    blobs = "blobs" in request.query_params
    siblings = [
        {"rfilename": path} | ({"size": blob.size, "blobId": blob.git_oid} if blobs else {})
        for path, blob in sorted(commit.tree.items())
    ]
    first = repo.history()[-1]
    return JSONResponse(
        {
            "_id": first.id[:24],
            "id": repo.id,
            "author": USER,
            "sha": commit.id,
            "private": repo.private,
            "gated": False,
            "disabled": False,
            "lastModified": commit.date,
            "createdAt": first.date,
            "downloads": 0,
            "likes": 0,
            "tags": [],
            "siblings": siblings,
        }
        | ({"sdk": repo.sdk} if repo.sdk else {})
    )


async def refs(hub: HubServer, request: Request, kind: str, repo_id: str) -> Response:
    repo = hub.repo_for(request, kind, repo_id)
    found = [
        {"name": ref.removeprefix("refs/heads/").removeprefix("refs/"), "ref": ref, "targetCommit": commit}
        for ref, commit in repo.refs.items()
    ]
    branches = [ref for ref in found if ref["ref"].startswith("refs/heads/")]
    pulls = [ref for ref in found if ref["ref"].startswith("refs/pr/")]
    tags = [
        {"name": name, "ref": f"refs/tags/{name}", "targetCommit": commit} for name, (commit, _) in repo.tags.items()
    ]
    return JSONResponse({"branches": branches, "converts": [], "tags": tags, "pullRequests": pulls})


async def create_tag(hub: HubServer, request: Request, kind: str, repo_id: str, revision: str) -> Response:
    repo = hub.repo_for(request, kind, repo_id, write=True)
    asked = await request.json()
    if asked["tag"] in repo.tags:
        raise HubError(409, f"Tag reference exists already: {asked['tag']}")
    repo.tags[asked["tag"]] = repo.commit(revision).id, asked.get("message", "")
    return JSONResponse({})


async def create_branch(hub: HubServer, request: Request, kind: str, repo_id: str, branch: str) -> Response:
    repo = hub.repo_for(request, kind, repo_id, write=True)
    if f"refs/heads/{branch}" in repo.refs:
        raise HubError(409, f"Reference already exists: refs/heads/{branch}")
    start = (await request.json()).get("startingPoint", "main")
    repo.refs[f"refs/heads/{branch}"] = repo.commit(start).id
    return JSONResponse({})


async def delete_branch(hub: HubServer, request: Request, kind: str, repo_id: str, branch: str) -> Response:
    repo = hub.repo_for(request, kind, repo_id, write=True)
    if branch == "main" or repo.refs.pop(f"refs/heads/{branch}", None) is None:
        raise HubError(404, f"no branch to delete: {branch}", "RevisionNotFound")
    return JSONResponse({})


async def commits(hub: HubServer, request: Request, kind: str, repo_id: str, revision: str) -> Response:
    commits = [
        {"id": commit.id, "authors": [{"user": USER}], "date": commit.date}
        | {"title": commit.title, "message": commit.message}
        for commit in hub.repo_for(request, kind, repo_id).history(revision)
    ]
    return page(request, commits)
