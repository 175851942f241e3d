"""The content of the Hub: repositories, commits and files, kept on disk."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

USER = "haematology"
TOKEN = "hf_loopback"
# The patterns of the .gitattributes that the Hub writes into a new repository.
_LFS = (
    "*.7z *.arrow *.bin *.bz2 *.ckpt *.ftz *.gz *.h5 *.joblib *.lfs.* *.mlmodel *.model *.msgpack *.npy *.npz *.onnx "
    "*.ot *.parquet *.pb *.pickle *.pkl *.pt *.pth *.rar *.safetensors saved_model/**/* *.tar.* *.tar *.tflite *.tgz "
    "*.wasm *.xz *.zip *.zst *tfevents*"
).split()
_LFS_MEDIA = "*.bmp *.gif *.png *.tiff *.jpg *.jpeg *.webp *.aac *.flac *.mp3 *.ogg *.wav *.mp4 *.webm".split()
LFS_NAMES = {"model": _LFS, "space": _LFS, "dataset": [*_LFS, *_LFS_MEDIA]}


class HubError(Exception):
    """An error as the Hub answers it: `code` is what clients tell errors apart by."""

    def __init__(self, status: int, message: str, code: str | None = None, **content):
        super().__init__(message)
        self.status, self.message, self.code, self.content = status, message, code, content


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
    """A repository: commits by id, the refs that name them, and tags with their messages."""

    id: str
    type: str
    private: bool
    sdk: str | None
    commits: dict[str, Commit] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    tags: dict[str, tuple[str, str]] = field(default_factory=dict)

    def commit(self, revision: str) -> Commit:
        """The commit that a branch, a tag, a pull request's ref, or an id names."""
        if revision in self.commits:
            return self.commits[revision]
        if revision in self.tags:
            return self.commits[self.tags[revision][0]]
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


class Store:
    """Repositories, and the content of their files in a folder.

    Attributes:
        repos: The repositories by (type, id).
    """

    def __init__(self, root: Path):
        self.root = Path(root)
        (self.root / "blobs").mkdir(parents=True, exist_ok=True)
        self.repos: dict[tuple[str, str], Repo] = {}

    def repo(self, kind: str, repo_id: str) -> Repo:
        return self.repos[kind, repo_id]

    def content(self, kind: str, repo_id: str, path: str, revision: str = "main") -> bytes:
        """A file as it was uploaded."""
        return self.blob(self.repo(kind, repo_id).commit(revision).tree[path].sha256).read_bytes()

    def blob(self, sha256: str) -> Path:
        """The file that keeps a content."""
        return self.root / "blobs" / sha256

    def store(self, content: bytes) -> Blob:
        """Keep a content."""
        sha256 = hashlib.sha256(content).hexdigest()
        self.blob(sha256).write_bytes(content)
        return Blob(sha256, len(content), git_oid(content), lfs=False)

    def add_commit(self, repo: Repo, ref: str, parent: str | None, title: str, message: str, tree: dict) -> Commit:
        """Make a commit of a tree, and let a ref name it."""
        known = json.dumps([repo.type, repo.id, parent, title, message, len(repo.commits)])
        digest = hashlib.sha1((known + "".join(f"{path}{tree[path].sha256}" for path in sorted(tree))).encode())
        date = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        commit = Commit(digest.hexdigest(), parent, title, message, date, tree)
        repo.commits[commit.id] = commit
        repo.refs[ref] = commit.id
        return commit
