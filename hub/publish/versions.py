"""Versions of a repository: tags, each with its section of the repository's `CHANGELOG.md`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi

from hub.files import UserError

CHANGELOG_NAME = "CHANGELOG.md"


def version_text(folder: Path, tag: str) -> str | None:
    """The section of a version in the `CHANGELOG.md` of a staged repository, None without such a file.

    Raises:
        UserError: The file has no section `## TAG`, alone or followed by a comma, a dash or a date, or an empty one.
    """
    path = folder / CHANGELOG_NAME
    if not path.is_file():
        return None
    for section in re.split(r"^## ", path.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]:
        title, _, text = section.partition("\n")
        if re.split(r"[\s,:]", title, maxsplit=1)[0].strip("[]") == tag and text.strip():
            return text.strip()
    raise UserError(f"{CHANGELOG_NAME} has no section {tag}: write there what changed, under the heading `## {tag}`")


def find_tag(api: HfApi, repo: dict[str, Any], tag: str) -> str | None:
    """The id of the commit that a tag means, None if there is no such tag."""
    refs = api.list_repo_refs(**repo)
    return next((ref.target_commit for ref in refs.tags if ref.name == tag), None)


def check_tag(api: HfApi, repo: dict[str, Any], tag: str, head: str | None) -> None:
    """Raise `UserError` if a tag means another commit than the last one: it is not moved."""
    if (tagged := find_tag(api, repo, tag)) not in (None, head):
        raise UserError(f"the tag {tag} of {repo['repo_id']} means the commit {tagged[:7]}: name another tag")


def set_tag(api: HfApi, repo: dict[str, Any], tag: str, commit: str, message: str | None) -> None:
    """Tag a commit, unless it has the tag already.

    Raises:
        UserError: The tag means another commit.
    """
    tagged = find_tag(api, repo, tag)
    if tagged is None:
        api.create_tag(**repo, tag=tag, revision=commit, tag_message=message)
    elif tagged != commit:
        raise UserError(
            f"the files are pushed as {commit[:7]}, but the tag {tag} of {repo['repo_id']} means {tagged[:7]}: name "
            "another tag"
        )
