"""A Hub on the loopback interface: the HTTP API that huggingface_hub, transformers and datasets speak, kept on disk.

    python tests/hub_server.py --root DIR     # prints the environment in which the real clients use it

Repositories, revisions, pull requests, trees, LFS uploads in one or in several parts, commits, downloads with ranges
and redirects. What it is told is checked, as the Hub does: hashes, sizes, parents, tokens, metadata of cards. Anything
else is answered by 404. Faults are injected on demand, see [`Fault`].

It speaks LFS and not Xet, whose storage is a service of its own: clients need `HF_HUB_DISABLE_XET=1`.
"""

import argparse
import asyncio
import base64
import binascii
import contextlib
import fnmatch
import hashlib
import json
import re
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote, unquote

import uvicorn
import yaml
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse

USER = "haematology"
TOKEN = "hf_loopback"
PAGE = 50  # entries of a tree or a history in one answer
PART_BYTES = 16 * 2**20  # what is larger is uploaded in parts of this size
INLINE_BYTES = 10 * 2**20  # what is larger is never taken inside of a commit
LFS_NAMES = ("*.safetensors", "*.onnx", "*.parquet", "*.bin", "*.pt", "*.png", "*.jpg")
LFS_POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:{oid}\nsize {size}\n"
TYPES = ("model", "dataset", "space")
LICENSES = {"apache-2.0", "mit", "cc-by-4.0"}  # of the Hub's list, those that occur here
SDKS = {"gradio", "docker", "static"}
TASKS = {"image-classification"}


class HubError(Exception):
    """An error as the Hub answers it: `code` is what clients tell errors apart by."""

    def __init__(self, status: int, message: str, code: str | None = None, **content):
        super().__init__(message)
        self.status, self.message, self.code, self.content = status, message, code, content


@dataclass
class Fault:
    """What goes wrong with the requests whose method and path match, as often as `times` says, after `skip` of them.

    kind:
        `status`: answered by `status`, with `headers`; nothing else happens.
        `drop`: the connection is cut after `after` bytes of the request's body, or, if it has none, of the answer's.
        `slow`: each piece of either body waits for `seconds`.
        `lost`: everything happens, and the connection is cut before the answer.
        `meanwhile`: `action` is called first; then nothing is wrong.
    """

    method: str
    path: str  # a regular expression, searched for
    kind: str = "status"
    times: int = 1
    skip: int = 0
    status: int = 500
    headers: dict[str, str] = field(default_factory=dict)
    after: int = 0
    seconds: float = 0.0
    action: Callable[[], None] = lambda: None


@dataclass(frozen=True)
class Blob:
    """A file's content: its SHA-256 and size, and the hash that git knows it by."""

    sha256: str
    size: int
    git_oid: str
    lfs: bool


@dataclass(frozen=True)
class Commit:
    """A state of a repository's files."""

    id: str
    parent: str | None
    title: str
    message: str
    date: str
    tree: dict[str, Blob]


@dataclass
class Repo:
    """A repository: commits by id, and the refs that name them."""

    id: str
    type: str
    private: bool
    sdk: str | None
    commits: dict[str, Commit] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)

    def commit(self, revision: str) -> Commit:
        """The commit that a branch, a pull request's ref, or an id names."""
        if revision in self.commits:
            return self.commits[revision]
        for ref in (f"refs/heads/{revision}", revision):
            if ref in self.refs:
                return self.commits[self.refs[ref]]
        raise HubError(404, f"Invalid rev id: {revision}", "RevisionNotFound")

    def history(self, revision: str = "main") -> list[Commit]:
        """The commits of a revision, newest first."""
        commits, commit = [], self.commit(revision)
        while commit is not None:
            commits.append(commit)
            commit = self.commits.get(commit.parent)
        return commits


def git_oid(content: bytes) -> str:
    """The SHA-1 that git gives a file of this content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class HubServer:
    """The server, an ASGI application that runs in a thread: `with HubServer(folder) as hub: ...`

    Attributes:
        endpoint: Its address, for `HF_ENDPOINT`.
        repos: The repositories by (type, id); `hub.repo("model", "a/b")` names one.
        faults: What is to go wrong from now on.
        requests: (method, path, status) of what was asked, in order.
    """

    def __init__(self, root: Path, port: int = 0):
        self.root = Path(root)
        (self.root / "blobs").mkdir(parents=True, exist_ok=True)
        self.repos: dict[tuple[str, str], Repo] = {}
        self.faults: list[Fault] = []
        self.requests: list[tuple[str, str, int]] = []
        self.socket = socket.create_server(("127.0.0.1", port))
        self.endpoint = f"http://127.0.0.1:{self.socket.getsockname()[1]}"
        # Of another name, as that of the Hub is: clients take a redirect to the same one for a renamed repository.
        self.cdn_endpoint = self.endpoint.replace("127.0.0.1", "localhost")
        config = uvicorn.Config(self, log_level="critical", lifespan="off", timeout_graceful_shutdown=1)
        self.server = uvicorn.Server(config)
        self.thread = threading.Thread(target=self.server.run, args=([self.socket],), daemon=True)

    def __enter__(self):
        self.thread.start()
        while not self.server.started:
            time.sleep(0.01)
        return self

    def __exit__(self, *_):
        self.server.should_exit = True
        self.thread.join()
        self.socket.close()

    def environment(self, token: str | None = TOKEN) -> dict[str, str]:
        """The environment variables by which clients in another process use this Hub and no other."""
        variables = {
            "HF_ENDPOINT": self.endpoint,
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "NO_PROXY": "127.0.0.1,localhost",
        }
        return variables | ({"HF_TOKEN": token} if token else {})

    def repo(self, kind: str, repo_id: str) -> Repo:
        return self.repos[kind, repo_id]

    def content(self, kind: str, repo_id: str, path: str, revision: str = "main") -> bytes:
        """A file as it was uploaded."""
        return self._blob(self.repo(kind, repo_id).commit(revision).tree[path].sha256).read_bytes()

    # --- ASGI ---

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http":
            return
        request = Request(scope, receive)
        path = scope["raw_path"].decode()
        fault = self._fault(request.method, path)
        if fault is not None and fault.kind == "drop":
            # Uvicorn's own object behind `send`: ASGI has no word for a connection that breaks.
            receive, send = _cut(receive, send, send.__self__.transport, fault.after)
        elif fault is not None and fault.kind == "slow":
            receive, send = _slowed(receive, send, fault.seconds)
        elif fault is not None and fault.kind == "meanwhile":
            fault.action()
        if fault is not None and fault.kind == "status":
            response = JSONResponse({"error": "injected"}, fault.status, fault.headers)
        else:
            response = await self._answer(Request(scope, receive), path)
        if fault is not None and fault.kind == "lost":
            send.__self__.transport.abort()
        self.requests.append((request.method, path, response.status_code))
        with contextlib.suppress(ConnectionError):
            await response(scope, receive, send)

    def _fault(self, method: str, path: str) -> Fault | None:
        for fault in self.faults:
            if fault.times and fault.method == method and re.search(fault.path, path):
                if fault.skip:
                    fault.skip -= 1
                    return None
                fault.times -= 1
                return fault
        return None

    async def _answer(self, request: Request, path: str) -> Response:
        try:
            for method, pattern, handler in ROUTES:
                if method == request.method and (match := re.fullmatch(pattern, path)):
                    arguments = {name: unquote(value or "") for name, value in match.groupdict().items()}
                    return await handler(self, request, **arguments)
            raise HubError(404, f"{request.method} {path} is no part of this Hub")
        except HubError as error:
            headers = {"X-Error-Message": error.message} | ({"X-Error-Code": error.code} if error.code else {})
            return JSONResponse({"error": error.message, **error.content}, error.status, headers)
        except ClientDisconnect:
            return Response(status_code=499)

    # --- Who asks, and for what ---

    def _token(self, request: Request) -> str | None:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme == "Bearer" and token != TOKEN:
            raise HubError(401, "Invalid credentials in Authorization header")
        return token or None

    def _writer(self, request: Request, repo_id: str) -> None:
        if self._token(request) is None:
            raise HubError(401, "Invalid username or password.")
        if repo_id.split("/")[0] != USER:
            raise HubError(403, f'You don\'t have the rights to create a model under the namespace "{repo_id}"')

    def _repo(self, request: Request, kind: str, repo_id: str, write: bool = False) -> Repo:
        token = self._token(request)
        repo = self.repos.get((kind, repo_id))
        if repo is None or (repo.private and token is None):
            raise HubError(401 if token is None else 404, "Repository not found", "RepoNotFound")
        if write:
            self._writer(request, repo_id)
        return repo

    def _blob(self, sha256: str) -> Path:
        return self.root / "blobs" / sha256

    def _store(self, content: bytes) -> Blob:
        sha256 = hashlib.sha256(content).hexdigest()
        self._blob(sha256).write_bytes(content)
        return Blob(sha256, len(content), git_oid(content), lfs=False)

    def _add_commit(self, repo: Repo, ref: str, parent: str | None, title: str, message: str, tree: dict) -> Commit:
        known = json.dumps([repo.type, repo.id, parent, title, message, len(repo.commits)])
        digest = hashlib.sha1((known + "".join(f"{path}{tree[path].sha256}" for path in sorted(tree))).encode())
        date = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        commit = Commit(digest.hexdigest(), parent, title, message, date, tree)
        repo.commits[commit.id] = commit
        repo.refs[ref] = commit.id
        return commit

    # --- Repositories ---

    async def whoami(self, request: Request) -> Response:
        if self._token(request) is None:
            raise HubError(401, "Invalid username or password.")
        return JSONResponse({"type": "user", "name": USER, "orgs": [], "auth": {"accessToken": {"role": "write"}}})

    async def create_repo(self, request: Request) -> Response:
        asked = await request.json()
        kind = asked.get("type") or "model"
        repo_id = f"{asked.get('organization') or USER}/{asked['name']}"
        self._writer(request, repo_id)
        if kind not in TYPES:
            raise HubError(400, f"no such type of repository: {kind}")
        if kind == "space" and asked.get("sdk") not in SDKS:
            raise HubError(400, f"a Space needs an sdk of {sorted(SDKS)}, got {asked.get('sdk')}")
        url = f"{self.endpoint}/{'' if kind == 'model' else kind + 's/'}{repo_id}"
        if (kind, repo_id) in self.repos:
            raise HubError(409, f"You already created this {kind} repo", url=url)
        private = bool(asked.get("private")) or asked.get("visibility") == "private"
        repo = self.repos[kind, repo_id] = Repo(repo_id, kind, private, asked.get("sdk"))
        attributes = "".join(f"{name} filter=lfs diff=lfs merge=lfs -text\n" for name in LFS_NAMES)
        tree = {".gitattributes": self._store(attributes.encode())}
        self._add_commit(repo, "refs/heads/main", None, "initial commit", "", tree)
        return JSONResponse({"url": url, "name": repo_id, "id": repo_id})

    async def info(self, request: Request, kind: str, repo_id: str, revision: str = "main") -> Response:
        repo = self._repo(request, kind, repo_id)
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

    async def refs(self, request: Request, kind: str, repo_id: str) -> Response:
        repo = self._repo(request, kind, repo_id)
        found = [
            {"name": ref.removeprefix("refs/heads/").removeprefix("refs/"), "ref": ref, "targetCommit": commit}
            for ref, commit in repo.refs.items()
        ]
        branches = [ref for ref in found if ref["ref"].startswith("refs/heads/")]
        pulls = [ref for ref in found if ref["ref"].startswith("refs/pr/")]
        return JSONResponse({"branches": branches, "converts": [], "tags": [], "pullRequests": pulls})

    async def create_branch(self, request: Request, kind: str, repo_id: str, branch: str) -> Response:
        repo = self._repo(request, kind, repo_id, write=True)
        if f"refs/heads/{branch}" in repo.refs:
            raise HubError(409, f"Reference already exists: refs/heads/{branch}")
        start = (await request.json()).get("startingPoint", "main")
        repo.refs[f"refs/heads/{branch}"] = repo.commit(start).id
        return JSONResponse({})

    async def delete_branch(self, request: Request, kind: str, repo_id: str, branch: str) -> Response:
        repo = self._repo(request, kind, repo_id, write=True)
        if branch == "main" or repo.refs.pop(f"refs/heads/{branch}", None) is None:
            raise HubError(404, f"no branch to delete: {branch}", "RevisionNotFound")
        return JSONResponse({})

    async def commits(self, request: Request, kind: str, repo_id: str, revision: str) -> Response:
        commits = [
            {"id": commit.id, "authors": [{"user": USER}], "date": commit.date}
            | {"title": commit.title, "message": commit.message}
            for commit in self._repo(request, kind, repo_id).history(revision)
        ]
        return self._page(request, commits)

    def _page(self, request: Request, entries: list) -> Response:
        start = int(request.query_params.get("cursor", 0))
        headers = {}
        if start + PAGE < len(entries):
            following = request.url.include_query_params(cursor=start + PAGE)
            headers["Link"] = f'<{following}>; rel="next"'
        return JSONResponse(entries[start : start + PAGE], headers=headers)

    # --- Files ---

    async def tree(self, request: Request, kind: str, repo_id: str, revision: str, path: str = "") -> Response:
        commit = self._repo(request, kind, repo_id).commit(revision)
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
        return self._page(request, [entries[name] for name in sorted(entries)])

    async def paths_info(self, request: Request, kind: str, repo_id: str, revision: str) -> Response:
        tree = self._repo(request, kind, repo_id).commit(revision).tree
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

    async def resolve(self, request: Request, repo_id: str, revision: str, path: str, prefix: str = "") -> Response:
        kind = prefix.removesuffix("s/") or "model"
        commit = self._repo(request, kind, repo_id).commit(revision)
        if path not in commit.tree:
            raise HubError(404, "Entry not found", "EntryNotFound")
        blob = commit.tree[path]
        headers = {"X-Repo-Commit": commit.id, "Accept-Ranges": "bytes"}
        if not blob.lfs:
            return self._send(request, blob, headers | {"ETag": f'"{blob.git_oid}"'})
        headers |= {"X-Linked-Etag": f'"{blob.sha256}"', "X-Linked-Size": str(blob.size)}
        return Response(status_code=302, headers=headers | {"Location": f"{self.cdn_endpoint}/cdn/{blob.sha256}"})

    async def cdn(self, request: Request, sha256: str) -> Response:
        blob = Blob(sha256, self._blob(sha256).stat().st_size, "", lfs=True)
        return self._send(request, blob, {"ETag": f'"{sha256}"', "Accept-Ranges": "bytes"})

    def _send(self, request: Request, blob: Blob, headers: dict[str, str]) -> Response:
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
            with open(self._blob(blob.sha256), "rb") as file:
                file.seek(start)
                for at in range(start, stop, 2**16):
                    yield file.read(min(2**16, stop - at))

        return StreamingResponse(pieces(), status, headers)

    # --- Uploads ---

    async def validate_yaml(self, request: Request) -> Response:
        asked = await request.json()
        if errors := card_errors(asked["content"], asked["repoType"]):
            return JSONResponse({"errors": [{"message": error} for error in errors], "warnings": []}, 400)
        return JSONResponse({"errors": [], "warnings": []})

    async def preupload(self, request: Request, kind: str, repo_id: str, revision: str) -> Response:
        repo = self._repo(request, kind, repo_id, write=True)
        tree = repo.commit(revision).tree
        asked = await request.json()
        ignored = [line.strip() for line in asked.get("gitIgnore", "").splitlines() if line.strip()]
        answers = []
        for file in asked["files"]:
            path, sample = file["path"], base64.b64decode(file["sample"])
            text = b"\0" not in sample and file["size"] <= INLINE_BYTES
            lfs = not text or any(fnmatch.fnmatch(path, pattern) for pattern in LFS_NAMES)
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

    async def lfs_batch(self, request: Request, repo_id: str, prefix: str = "") -> Response:
        self._repo(request, prefix.removesuffix("s/") or "model", repo_id, write=True)
        asked = await request.json()
        if asked["operation"] != "upload" or "basic" not in asked["transfers"] or asked["hash_algo"] != "sha256":
            raise HubError(422, "only uploads by SHA-256 and the basic transfer are known")
        objects = []
        for wanted in asked["objects"]:
            oid, size = wanted["oid"], wanted["size"]
            if not re.fullmatch("[0-9a-f]{64}", oid):
                raise HubError(422, f"not a SHA-256: {oid}")
            if not self._blob(oid).exists():
                at = f"{self.endpoint}/lfs/{oid}/{size}"
                upload = {"href": at}
                if size > PART_BYTES:
                    parts = -(-size // PART_BYTES)
                    header = {f"{part:05d}": f"{at}/part/{part}" for part in range(1, parts + 1)}
                    upload = {"href": f"{at}/complete", "header": header | {"chunk_size": str(PART_BYTES)}}
                wanted["actions"] = {"upload": upload, "verify": {"href": f"{self.endpoint}/lfs/{oid}/verify"}}
            objects.append(wanted)
        transfer = "multipart" if any(wanted["size"] > PART_BYTES for wanted in objects) else "basic"
        return JSONResponse({"transfer": transfer, "objects": objects})

    async def lfs_put(self, request: Request, oid: str, size: str, part: str = "") -> Response:
        temporary = self._blob(f"{oid}.{part or 'whole'}")
        digest, received = hashlib.sha256(), 0
        with open(temporary, "wb") as file:
            async for piece in request.stream():
                file.write(piece)
                digest.update(piece)
                received += len(piece)
        if part:
            return Response(headers={"ETag": f'"{digest.hexdigest()}"'})
        self._accept(temporary, oid, int(size), digest.hexdigest(), received)
        return Response()

    async def lfs_complete(self, request: Request, oid: str, size: str) -> Response:
        asked = await request.json()
        whole, digest, received = self._blob(f"{oid}.whole"), hashlib.sha256(), 0
        with open(whole, "wb") as file:
            for number, part in enumerate(sorted(asked["parts"], key=lambda part: part["partNumber"]), 1):
                path = self._blob(f"{oid}.{number}")
                if part["partNumber"] != number or not path.exists():
                    raise HubError(400, f"part {number} of {oid} is missing")
                content = path.read_bytes()
                if hashlib.sha256(content).hexdigest() != part["etag"].strip('"'):
                    raise HubError(400, f"part {number} of {oid} is another one")
                file.write(content)
                digest.update(content)
                received += len(content)
                path.unlink()
        self._accept(whole, oid, int(size), digest.hexdigest(), received)
        return JSONResponse({})

    def _accept(self, path: Path, oid: str, size: int, sha256: str, received: int) -> None:
        """Make an upload a blob if it is what was announced, and forget it otherwise."""
        if (sha256, received) != (oid, size):
            path.unlink()
            raise HubError(400, f"announced {size} bytes of SHA-256 {oid}, received {received} of {sha256}")
        path.replace(self._blob(oid))

    async def lfs_verify(self, request: Request, oid: str) -> Response:
        self._token(request)
        asked = await request.json()
        if not self._blob(oid).exists() or self._blob(oid).stat().st_size != asked["size"]:
            raise HubError(404, f"{oid} was not uploaded")
        return JSONResponse({})

    async def commit(self, request: Request, kind: str, repo_id: str, revision: str) -> Response:
        repo = self._repo(request, kind, repo_id, write=True)
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
            value = line["value"]
            if line["key"] == "file":
                try:
                    content = base64.b64decode(value["content"], validate=True)
                except binascii.Error as error:
                    raise HubError(400, f"{value['path']} is not base64") from error
                if len(content) > INLINE_BYTES:
                    raise HubError(413, f"{value['path']} belongs to LFS: {len(content)} bytes")
                tree[value["path"]] = self._store(content)
            elif line["key"] == "lfsFile":
                path = self._blob(value["oid"])
                if not path.exists() or path.stat().st_size != value["size"]:
                    raise HubError(400, f"{value['path']} was not uploaded before the commit")
                pointer = LFS_POINTER.format(**value)
                tree[value["path"]] = Blob(value["oid"], value["size"], git_oid(pointer.encode()), lfs=True)
            elif line["key"] == "deletedFile":
                if tree.pop(value["path"], None) is None:
                    raise HubError(404, "A file with this name doesn't exist", "EntryNotFound")
            elif line["key"] != "header":
                raise HubError(400, f"a commit cannot hold {line['key']}")
        if "README.md" in tree and (errors := card_errors(self._text(tree["README.md"]), kind)):
            raise HubError(400, "; ".join(errors))
        ref = f"refs/heads/{revision}"
        pull_request = None
        if request.query_params.get("create_pr"):
            number = 1 + sum(name.startswith("refs/pr/") for name in repo.refs)
            ref, pull_request = f"refs/pr/{number}", f"{self.endpoint}/{repo_id}/discussions/{number}"
        commit = self._add_commit(repo, ref, head.id, header["summary"], header.get("description", ""), tree)
        url = f"{self.endpoint}/{'' if kind == 'model' else kind + 's/'}{repo_id}/commit/{commit.id}"
        return JSONResponse(
            {"success": True, "commitOid": commit.id, "commitUrl": url, "pullRequestUrl": pull_request}
        )

    def _text(self, blob: Blob) -> str:
        return self._blob(blob.sha256).read_text(encoding="utf-8")


def _file_entry(path: str, blob: Blob) -> dict:
    entry = {"type": "file", "path": path, "size": blob.size, "oid": blob.git_oid}
    return entry | ({"lfs": {"oid": blob.sha256, "size": blob.size, "pointerSize": 134}} if blob.lfs else {})


def _folder_entry(path: str) -> dict:
    return {"type": "directory", "path": path, "size": 0, "oid": git_oid(path.encode())}


def card_errors(content: str, kind: str) -> list[str]:
    """What the Hub would refuse in the metadata of a README.md, as far as this project's cards use them."""
    match = re.match(r"---\n(.*?)\n---\n", content, re.DOTALL)
    if match is None:
        return ["the card has no metadata"]
    try:
        data = yaml.safe_load(match[1])
    except yaml.YAMLError as error:
        return [f"the metadata are not YAML: {error}"]
    errors = []
    licenses = data.get("license", [])
    errors += [f'"license" {name!r} is unknown' for name in _listed(licenses) if name not in LICENSES]
    for key in ("models", "datasets"):
        errors += [
            f'"{key}" names {name!r}, which is no id'
            for name in _listed(data.get(key, []))
            if not re.fullmatch(r"[\w.-]+/[\w.-]+", name)
        ]
    if kind == "model":
        if data.get("pipeline_tag", "image-classification") not in TASKS:
            errors.append(f'"pipeline_tag" {data["pipeline_tag"]!r} is unknown')
        for model in data.get("model-index", []):
            for result in model["results"]:
                if not {"type", "name"} <= result.get("dataset", {}).keys():
                    errors.append('"model-index" needs type and name of the dataset')
                if result.get("task", {}).get("type") not in TASKS:
                    errors.append('"model-index" needs a known task')
                for metric in result.get("metrics", []):
                    if not {"type", "value"} <= metric.keys() or isinstance(metric["value"], str):
                        errors.append('"model-index" needs type and value of each metric')
    if kind == "dataset":
        errors += [
            f'"task_categories" {task!r} is unknown' for task in data.get("task_categories", []) if task not in TASKS
        ]
        for config in data.get("configs", []):
            if not {"config_name", "data_files"} <= config.keys():
                errors.append('"configs" needs config_name and data_files')
    if kind == "space":
        if data.get("sdk") not in SDKS:
            errors.append(f'"sdk" must be one of {sorted(SDKS)}, got {data.get("sdk")!r}')
        if not re.fullmatch(r"\d+\.\d+\.\d+", str(data.get("sdk_version", ""))):
            errors.append(f'"sdk_version" {data.get("sdk_version")!r} is no version')
        if len(str(data.get("short_description", ""))) > 60:
            errors.append('"short_description" is longer than 60 characters')
        if {"colorFrom", "colorTo"} & data.keys() and not {data.get("colorFrom"), data.get("colorTo")} <= {
            "red",
            "yellow",
            "green",
            "blue",
            "indigo",
            "purple",
            "pink",
            "gray",
        }:
            errors.append('"colorFrom" and "colorTo" must be colours that the Hub knows')
    return errors


def _listed(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else list(value)


def _cut(receive: Callable, send: Callable, transport, after: int) -> tuple[Callable, Callable]:
    """`receive` and `send` that cut the connection after so many bytes of the request's body, or of the answer's."""
    passed = 0

    def count(body: bytes) -> None:
        nonlocal passed
        passed += len(body)
        if body and passed > after:
            transport.abort()
            raise ConnectionAbortedError("cut on demand")

    async def cut_receive():
        message = await receive()
        try:
            count(message.get("body", b""))
        except ConnectionAbortedError:
            return {"type": "http.disconnect"}
        return message

    async def cut_send(message):
        if message["type"] == "http.response.body":
            body = message.get("body", b"")
            room = max(0, after - passed)
            if len(body) > room:  # what is before the cut still arrives
                await send({**message, "body": body[:room], "more_body": True})
                await asyncio.sleep(0.05)
            count(body)
        await send(message)

    return cut_receive, cut_send


def _slowed(receive: Callable, send: Callable, seconds: float) -> tuple[Callable, Callable]:
    async def slow_receive():
        await asyncio.sleep(seconds)
        return await receive()

    async def slow_send(message):
        if message["type"] == "http.response.body" and message.get("body"):
            await asyncio.sleep(seconds)
        await send(message)

    return slow_receive, slow_send


_API = r"/api/(?P<kind>model|dataset|space)s/(?P<repo_id>[^/]+/[^/]+)"
_REPO = r"/(?P<prefix>datasets/|spaces/)?(?P<repo_id>[^/]+/[^/]+)"
_REVISION = r"(?P<revision>[^/]+)"
ROUTES: list[tuple[str, str, Callable]] = [
    ("GET", r"/api/whoami-v2", HubServer.whoami),
    ("POST", r"/api/repos/create", HubServer.create_repo),
    ("POST", r"/api/validate-yaml", HubServer.validate_yaml),
    ("GET", _API, HubServer.info),
    ("GET", rf"{_API}/revision/{_REVISION}", HubServer.info),
    ("GET", rf"{_API}/refs", HubServer.refs),
    ("POST", rf"{_API}/branch/(?P<branch>[^/]+)", HubServer.create_branch),
    ("DELETE", rf"{_API}/branch/(?P<branch>[^/]+)", HubServer.delete_branch),
    ("GET", rf"{_API}/commits/{_REVISION}", HubServer.commits),
    ("GET", rf"{_API}/tree/{_REVISION}", HubServer.tree),
    ("GET", rf"{_API}/tree/{_REVISION}/(?P<path>.+)", HubServer.tree),
    ("POST", rf"{_API}/paths-info/{_REVISION}", HubServer.paths_info),
    ("POST", rf"{_API}/preupload/{_REVISION}", HubServer.preupload),
    ("POST", rf"{_API}/commit/{_REVISION}", HubServer.commit),
    ("POST", rf"{_REPO}\.git/info/lfs/objects/batch", HubServer.lfs_batch),
    ("PUT", r"/lfs/(?P<oid>[0-9a-f]{64})/(?P<size>\d+)", HubServer.lfs_put),
    ("PUT", r"/lfs/(?P<oid>[0-9a-f]{64})/(?P<size>\d+)/part/(?P<part>\d+)", HubServer.lfs_put),
    ("POST", r"/lfs/(?P<oid>[0-9a-f]{64})/(?P<size>\d+)/complete", HubServer.lfs_complete),
    ("POST", r"/lfs/(?P<oid>[0-9a-f]{64})/verify", HubServer.lfs_verify),
    *(
        (method, pattern, handler)
        for method in ("GET", "HEAD")
        for pattern, handler in (
            (rf"{_REPO}/resolve/{_REVISION}/(?P<path>.+)", HubServer.resolve),
            (r"/cdn/(?P<sha256>[0-9a-f]{64})", HubServer.cdn),
        )
    ),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, required=True, help="the folder to keep uploads in")
    parser.add_argument("--port", type=int, default=0)
    args = parser.parse_args()
    with HubServer(args.root, args.port) as hub:
        print(" ".join(f"{name}={quote(value, safe=':/.')}" for name, value in hub.environment().items()), flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            threading.Event().wait()


if __name__ == "__main__":
    main()
