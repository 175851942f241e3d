"""What the three repositories have in common: staged in a folder, pushed as one commit."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path

from huggingface_hub import CommitInfo, CommitOperationAdd, CommitOperationDelete, HfApi, get_token
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, RevisionNotFoundError
from huggingface_hub.utils import validate_repo_id

from hub.dataset import DatasetError, check_output, writing

# All that can go wrong on the way: of the HTTP library that huggingface_hub is built on, which has changed once, and
# what huggingface_hub makes of an upload that failed.
HTTP_ERRORS = (*HfHubHTTPError.__bases__, RuntimeError)
# The Hub's own, in every repository from its first commit on.
_KEPT = ".gitattributes"


def check_repo_id(repo_id: str) -> str:
    """Return `repo_id`, or raise `DatasetError` if it is not the id NAME/NAME of a repository."""
    try:
        validate_repo_id(repo_id)
        if repo_id.count("/") == 1:
            return repo_id
        reason = "the name of its owner, a slash and its own name were expected"
    except HFValidationError as error:
        reason = one_line(error)
    raise DatasetError(f"{repo_id!r} is not the id of a repository, such as NAME/wbc-ibn-resnet34: {reason}")


def files_of(folder: Path) -> dict[str, Path]:
    """The files of a staged repository by their paths in it, sorted.

    Raises `DatasetError` where there are none.
    """
    if not folder.is_dir():
        raise DatasetError(f"no such folder: {folder}")
    files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    if not files:
        raise DatasetError(f"{folder} is empty: there is nothing to push")
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
) -> CommitInfo | None:
    """Make a repository on the Hub hold what `folder` holds, by one commit or none.

    Large files are uploaded first, which nobody sees, and uploaded only once however often a push is repeated; then
    one commit adds them all, and removes what `folder` does not hold. The repository and the branch are created if
    there are none. A push that breaks off leaves every revision as it was; of a repository that it created, the
    empty first commit stays. The commit is refused where somebody else has committed in the meantime.

    Args:
        folder: The staged repository.
        repo_id: Its id, NAME/NAME.
        repo_type: `model`, `dataset` or `space` (of Gradio).
        commit_message: The title of the commit.
        private: Whether only its owner may see it, if it is created; one that exists must be private already.
        revision: The branch to commit to. Default: `main`.
        create_pr: Whether to open a pull request on `main` with the commit, instead of putting it there.

    Returns:
        What the Hub says of the commit; None where it holds the same files already, and nothing was committed.

    Raises:
        DatasetError: There is no token, or the Hub or the network refuses; the message says what to do.
    """
    files = files_of(folder)
    api = HfApi(token=_token())
    repo = {"repo_id": repo_id, "repo_type": repo_type}
    new_branch = False
    try:
        sdk = "gradio" if repo_type == "space" else None
        api.create_repo(**repo, private=private or None, exist_ok=True, space_sdk=sdk)
        if private and not api.repo_info(**repo).private:
            raise DatasetError(f"{repo_id} exists and is public: make it private in its settings, or omit --private")
        try:
            head = api.repo_info(**repo, revision=revision).sha
        except RevisionNotFoundError:
            api.create_branch(**repo, branch=revision)
            new_branch = True
            head = api.repo_info(**repo, revision=revision).sha
        there = set(api.list_repo_files(**repo, revision=head)) - {_KEPT}
        operations = [CommitOperationAdd(name, path) for name, path in files.items()]
        operations += [CommitOperationDelete(name) for name in sorted(there - files.keys())]
        commit = api.create_commit(
            **repo,
            operations=operations,
            commit_message=commit_message,
            revision=revision,
            create_pr=create_pr,
            parent_commit=head,
        )
    except BaseException as error:
        if new_branch:  # which would show main's files under the name of what was to come
            api.delete_branch(**repo, branch=revision)
        if isinstance(error, (*HTTP_ERRORS, ValueError)) and not isinstance(error, DatasetError):
            raise DatasetError(
                f"the push to {repo_id} broke off: {one_line(error)}. A commit is made of all the files or of none: "
                "run the same command again, which uploads only what is missing"
            ) from error
        raise
    return None if commit.oid == head else commit


def add_commands(actions, kind: str, stage: Callable[[argparse.Namespace, Path], None], add_arguments) -> None:
    """Add `stage` and `push` to `actions`, the subparsers of `python -m hub model|dataset|space`.

    Args:
        kind: `model`, `dataset` or `space`.
        stage: Writes the repository of the parsed arguments to a folder.
        add_arguments: Adds to a parser what `stage` needs beside `--repo-id`.
    """
    staging = actions.add_parser("stage", help="write the repository to a folder, without network")
    pushing = actions.add_parser("push", help="stage the repository and push it to the Hub as one commit")
    for parser in (staging, pushing):
        parser.add_argument("--repo-id", metavar="NAME/NAME", required=True, help="its id on the Hub")
        add_arguments(parser)
    staging.add_argument("--output", type=Path, metavar="DIR", required=True, help="folder to write; new or empty")
    pushing.add_argument("--private", action="store_true", help="create it for its owner's eyes only")
    pushing.add_argument("--revision", metavar="BRANCH", help="the branch to commit to (default: main)")
    pushing.add_argument("--commit-message", metavar="TEXT", help=f"default: 'Publish the {kind}'")
    pushing.add_argument("--create-pr", action="store_true", help="open a pull request instead")
    pushing.add_argument("--dry-run", action="store_true", help="list files and sizes and touch nothing")

    def run_stage(args: argparse.Namespace) -> None:
        check_repo_id(args.repo_id)
        check_output(args.output)
        with writing(args.output) as folder:
            folder.mkdir()
            stage(args, folder)
            listing = _listing(folder)
        print(f"{listing}\nstaged in {args.output}")

    def run_push(args: argparse.Namespace) -> None:
        if args.create_pr and args.revision:
            pushing.error("--create-pr opens a pull request on main: leave out --revision")
        check_repo_id(args.repo_id)
        with tempfile.TemporaryDirectory(prefix="wbc-") as name:
            folder = Path(name)
            if not args.dry_run:
                _token()  # missed before the work, not after it
            stage(args, folder)
            print(_listing(folder))
            if args.dry_run:
                print(f"would be pushed to {args.repo_id}; nothing was")
                return
            commit = push(
                folder,
                args.repo_id,
                kind,
                args.commit_message or f"Publish the {kind}",
                private=args.private,
                revision=args.revision,
                create_pr=args.create_pr,
            )
        if commit is None:
            print(f"{args.repo_id} holds these files already: nothing was committed")
        else:
            print(f"pushed: {commit.pr_url or commit.commit_url}")

    staging.set_defaults(run=run_stage)
    pushing.set_defaults(run=run_push)


def _token() -> str:
    token = get_token()
    if token is None:
        raise DatasetError(
            "no token of the Hub: create one with write access at https://huggingface.co/settings/tokens, then log "
            "in with `hf auth login` or put it into the environment variable HF_TOKEN"
        )
    return token


def _listing(folder: Path) -> str:
    """A table of the files of a staged repository and their sizes."""
    from hub.metrics import text_table  # which takes seconds to import

    sizes = {name: path.stat().st_size for name, path in files_of(folder).items()}
    sizes["total"] = sum(sizes.values())
    return text_table([["File", "Bytes"], *([name, f"{size:,}"] for name, size in sizes.items())])


def one_line(error: BaseException) -> str:
    """What an error says, or else its kind."""
    return " ".join(str(error).split()) or type(error).__name__
