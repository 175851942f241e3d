"""The server: an ASGI application that runs in a thread, and the routes of its API."""

from __future__ import annotations

import contextlib
import re
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote

import uvicorn
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from tests.publish.hub_server import files, repositories, uploads
from tests.publish.hub_server.faults import Fault, cut, slowed
from tests.publish.hub_server.store import TOKEN, USER, HubError, Repo, Store


class HubServer(Store):
    """The server, an ASGI application that runs in a thread: `with HubServer(folder) as hub: ...`

    Attributes:
        endpoint: Its address, for `HF_ENDPOINT`.
        repos: The repositories by (type, id); `hub.repo("model", "a/b")` names one.
        faults: What is to go wrong from now on.
        requests: (method, path, status) of what was asked, in order.
    """

    def __init__(self, root: Path, port: int = 0):
        super().__init__(root)
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

    # --- ASGI ---

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http":
            return
        request = Request(scope, receive)
        path = scope["raw_path"].decode()
        fault = self._fault(request.method, path)
        if fault is not None and fault.kind == "drop":
            # Uvicorn's own object behind `send`: ASGI has no word for a connection that breaks.
            receive, send = cut(receive, send, send.__self__.transport, fault.after)
        elif fault is not None and fault.kind == "slow":
            receive, send = slowed(receive, send, fault.seconds)
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
                # A HEAD is answered as a GET, without its body.
                same = method == request.method or (method, request.method) == ("GET", "HEAD")
                if same and (match := re.fullmatch(pattern, path)):
                    arguments = {name: unquote(value or "") for name, value in match.groupdict().items()}
                    return await handler(self, request, **arguments)
            raise HubError(404, f"{request.method} {path} is no part of this Hub")
        except HubError as error:
            headers = {"X-Error-Message": error.message} | ({"X-Error-Code": error.code} if error.code else {})
            return JSONResponse({"error": error.message, **error.content}, error.status, headers)
        except ClientDisconnect:
            return Response(status_code=499)

    # --- Who asks, and for what ---

    def token(self, request: Request) -> str | None:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme == "Bearer" and token != TOKEN:
            raise HubError(401, "Invalid credentials in Authorization header")
        return token or None

    def check_writer(self, request: Request, repo_id: str) -> None:
        if self.token(request) is None:
            raise HubError(401, "Invalid username or password.")
        if repo_id.split("/")[0] != USER:
            raise HubError(403, f'You don\'t have the rights to create a model under the namespace "{repo_id}"')

    def repo_for(self, request: Request, kind: str, repo_id: str, write: bool = False) -> Repo:
        token = self.token(request)
        repo = self.repos.get((kind, repo_id))
        if repo is None or (repo.private and token is None):
            raise HubError(401 if token is None else 404, "Repository not found", "RepoNotFound")
        if write:
            self.check_writer(request, repo_id)
        return repo


_API = r"/api/(?P<kind>model|dataset|space)s/(?P<repo_id>[^/]+/[^/]+)"
_REPO = r"/(?P<prefix>datasets/|spaces/)?(?P<repo_id>[^/]+/[^/]+)"
_REVISION = r"(?P<revision>[^/]+)"
ROUTES: list[tuple[str, str, Callable]] = [
    ("GET", r"/api/whoami-v2", repositories.whoami),
    ("POST", r"/api/repos/create", repositories.create_repo),
    ("POST", r"/api/validate-yaml", uploads.validate_yaml),
    ("GET", _API, repositories.info),
    ("GET", rf"{_API}/revision/{_REVISION}", repositories.info),
    ("GET", rf"{_API}/refs", repositories.refs),
    ("POST", rf"{_API}/branch/(?P<branch>[^/]+)", repositories.create_branch),
    ("DELETE", rf"{_API}/branch/(?P<branch>[^/]+)", repositories.delete_branch),
    ("POST", rf"{_API}/tag/{_REVISION}", repositories.create_tag),
    ("GET", rf"{_API}/commits/{_REVISION}", repositories.commits),
    ("GET", rf"{_API}/tree/{_REVISION}/?", files.tree),
    ("GET", rf"{_API}/tree/{_REVISION}/(?P<path>.+)", files.tree),
    ("POST", rf"{_API}/paths-info/{_REVISION}", files.paths_info),
    ("POST", rf"{_API}/preupload/{_REVISION}", uploads.preupload),
    ("POST", rf"{_API}/commit/{_REVISION}", uploads.commit),
    ("POST", rf"{_REPO}\.git/info/lfs/objects/batch", uploads.lfs_batch),
    ("PUT", r"/lfs/(?P<oid>[0-9a-f]{64})/(?P<size>\d+)", uploads.lfs_put),
    ("PUT", r"/lfs/(?P<oid>[0-9a-f]{64})/(?P<size>\d+)/part/(?P<part>\d+)", uploads.lfs_put),
    ("POST", r"/lfs/(?P<oid>[0-9a-f]{64})/(?P<size>\d+)/complete", uploads.lfs_complete),
    ("POST", r"/lfs/(?P<oid>[0-9a-f]{64})/verify", uploads.lfs_verify),
    ("GET", rf"{_REPO}/resolve/{_REVISION}/(?P<path>.+)", files.resolve),
    ("GET", r"/cdn/(?P<sha256>[0-9a-f]{64})", files.cdn),
]
