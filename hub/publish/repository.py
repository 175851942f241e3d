"""Stage a repository in a folder, and push it to the Hub as one commit."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from huggingface_hub import CommitInfo, CommitOperationAdd, CommitOperationDelete, HfApi, get_token
from huggingface_hub.errors import HFValidationError, RevisionNotFoundError
from huggingface_hub.utils import validate_repo_id

from hub.files import HUB_ERRORS, UserError, one_line, writing
from hub.publish.checks import check
from hub.publish.versions import check_tag, set_tag, version_text

# The file that the Hub itself adds to every repository in its first commit.
_KEPT = ".gitattributes"


def check_repo_id(repo_id: str) -> str:
    """Return `repo_id`, or raise `UserError` if it is not the id NAME/NAME of a repository."""
    try:
        validate_repo_id(repo_id)
        if repo_id.count("/") == 1:
            return repo_id
        reason = "the name of its owner, a slash and its own name were expected"
    except HFValidationError as error:
        reason = one_line(error)
    raise UserError(f"{repo_id!r} is not the id of a repository, such as NAME/wbc-ibn-resnet34: {reason}")


def files_of(folder: Path) -> dict[str, Path]:
    """The files of a staged repository by their paths in it, sorted.

    Raises:
        UserError: There are none.
    """
    if not folder.is_dir():
        raise UserError(f"no such folder: {folder}")
    files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    if not files:
        raise UserError(f"{folder} is empty: there is nothing to push")
    return files


def push(
    folder: Path,
    repo_id: str,
    repo_type: str,
    commit_message: str,
    *,
    private: bool = False,
    revision: str | None = None,
    create_pr: bool = False,
    tag: str | None = None,
) -> CommitInfo | None:
    """Make a repository on the Hub hold the files of `folder`, by one commit or none.

    Large files are uploaded first, invisible until the commit, and only once however often a push is repeated. One
    commit then adds all files, and removes those that `folder` lacks. A missing repository or branch is created. A
    failed push leaves every revision as it was; of a repository that it created, the empty first commit stays. The
    Hub refuses the commit if somebody else has committed in the meantime.

    Args:
        folder: The staged repository.
        repo_id: Its id, NAME/NAME.
        repo_type: `model`, `dataset` or `space` (of Gradio).
        commit_message: The title of the commit.
        private: Whether only its owner may see it, if it is created; one that exists must be private already.
        revision: The branch to commit to. Default: `main`.
        create_pr: Whether to open a pull request on `main` with the commit, instead of committing to `main`.
        tag: The name of a version, which is to mean these files for good; its message is the section of that name in
            `CHANGELOG.md`, if the repository has one.

    Returns:
        The Hub's answer to the commit; None if the repository held the same files already.

    Raises:
        UserError: The repository does not pass `hub.publish.checks`, the tag means another commit already or has no
            section in `CHANGELOG.md`, there is no token, or the Hub or the network refuses; the message says what to
            do.
    """
    files = files_of(folder)
    check(folder, repo_type, repo_id)
    message = version_text(folder, tag) if tag else None
    api = HfApi(token=_token())
    repo: dict[str, Any] = {"repo_id": repo_id, "repo_type": repo_type}
    try:
        _create(api, repo, private)
        with _branch(api, repo, revision or "main") as head:
            if tag:
                check_tag(api, repo, tag, head)
            there = set(api.list_repo_files(**repo, revision=head)) - {_KEPT}
            added = [CommitOperationAdd(name, path) for name, path in files.items()]
            deleted = [CommitOperationDelete(name) for name in sorted(there - files.keys())]
            commit = api.create_commit(
                **repo,
                operations=[*added, *deleted],
                commit_message=commit_message,
                revision=revision,
                create_pr=create_pr,
                parent_commit=head,
            )
        if tag:
            set_tag(api, repo, tag, commit.oid, message)
    except UserError:
        raise
    except (*HUB_ERRORS, ValueError) as error:
        raise UserError(
            f"the push to {repo_id} broke off: {one_line(error)}. A commit is made of all the files or of none: "
            "run the same command again, which uploads only what is missing"
        ) from error
    return None if commit.oid == head else commit


def _create(api: HfApi, repo: dict[str, Any], private: bool) -> None:
    """Create a repository unless it exists; raise `UserError` if it is public and should be private."""
    sdk = "gradio" if repo["repo_type"] == "space" else None
    api.create_repo(**repo, private=private or None, exist_ok=True, space_sdk=sdk)
    if private and not api.repo_info(**repo).private:
        raise UserError(f"{repo['repo_id']} exists and is public: make it private in its settings, or omit --private")


@contextmanager
def _branch(api: HfApi, repo: dict[str, Any], branch: str) -> Iterator[str | None]:
    """The id of the last commit of a branch; a missing branch is created, and deleted again if the block fails."""
    try:
        head = api.repo_info(**repo, revision=branch).sha
    except RevisionNotFoundError:
        api.create_branch(**repo, branch=branch)
    else:
        yield head
        return
    try:
        yield api.repo_info(**repo, revision=branch).sha
    except BaseException:  # The new branch would show the files of main under its name.
        api.delete_branch(**repo, branch=branch)
        raise


def stage_to(output: Path, repo_id: str, repo_type: str, stage: Callable[[Path], None]) -> dict[str, int]:
    """Write a repository to a folder, without network; after any failure the folder does not exist.

    Args:
        output: The folder; new or empty.
        repo_id: The id of the repository on the Hub.
        repo_type: `model`, `dataset` or `space`.
        stage: Writes the repository to the folder that it is called with.

    Returns:
        The size in bytes of each file, by its path in the repository.

    Raises:
        UserError: `repo_id` is no id, `output` is not empty, `stage` raises it, or the repository does not pass
            `hub.publish.checks`.
    """
    check_repo_id(repo_id)
    with writing(output) as folder:
        folder.mkdir()
        stage(folder)
        check(folder, repo_type, repo_id)
        return sizes_of(folder)


def publish(
    repo_id: str,
    repo_type: str,
    stage: Callable[[Path], None],
    commit_message: str | None = None,
    *,
    private: bool = False,
    revision: str | None = None,
    create_pr: bool = False,
    tag: str | None = None,
    dry_run: bool = False,
) -> tuple[dict[str, int], CommitInfo | None]:
    """Stage a repository and push it to the Hub as one commit, see `push`.

    Args:
        repo_id: As for `push`.
        repo_type: As for `push`.
        stage: Writes the repository to the folder that it is called with.
        commit_message: The title of the commit. Default: "Publish the " and the type.
        private: As for `push`.
        revision: As for `push`.
        create_pr: As for `push`.
        tag: As for `push`.
        dry_run: Whether to stop before the push, after the checks.

    Returns:
        The size in bytes of each file, by its path in the repository, and the result of `push`, None in a dry run.

    Raises:
        UserError: As for `push`, or `stage` raises it.
    """
    check_repo_id(repo_id)
    if not dry_run:
        _token()  # A missing token is an error before the work, not after it.
    with tempfile.TemporaryDirectory(prefix="wbc-") as name:
        folder = Path(name)
        stage(folder)
        sizes = sizes_of(folder)
        if dry_run:
            check(folder, repo_type, repo_id)
            if tag:
                version_text(folder, tag)
            return sizes, None
        message = commit_message or f"Publish the {repo_type}"
        return sizes, push(
            folder, repo_id, repo_type, message, private=private, revision=revision, create_pr=create_pr, tag=tag
        )


def sizes_of(folder: Path) -> dict[str, int]:
    """The size in bytes of each file of a staged repository, by its path in it."""
    return {name: path.stat().st_size for name, path in files_of(folder).items()}


def describe_sizes(sizes: Mapping[str, int]) -> str:
    """The table of the files of a staged repository, with their sizes in bytes."""
    rows = [(name, f"{size:,}") for name, size in [*sizes.items(), ("total", sum(sizes.values()))]]
    rows.insert(0, ("File", "Bytes"))
    # Not by `hub.evaluation.format`, whose imports take longer than to stage a Space.
    first, second = (max(map(len, column)) for column in zip(*rows, strict=True))
    return "\n".join(f"{name:<{first}}  {size:>{second}}" for name, size in rows)


def describe_push(repo_id: str, sizes: Mapping[str, int], commit: CommitInfo | None, dry_run: bool) -> str:
    """The result of `publish` as text: the files with their sizes, and what became of them."""
    if dry_run:
        outcome = f"dry run: nothing was pushed to {repo_id}"
    elif commit is None:
        outcome = f"{repo_id} holds these files already: nothing was committed"
    else:
        outcome = f"pushed: {commit.pr_url or commit.commit_url}"
    return f"{describe_sizes(sizes)}\n{outcome}"


def _token() -> str:
    token = get_token()
    if token is None:
        raise UserError(
            "no token of the Hub: create one with write access at https://huggingface.co/settings/tokens, then log "
            "in with `hf auth login` or put it into the environment variable HF_TOKEN"
        )
    return token
