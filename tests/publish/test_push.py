"""A push: one commit of all files or none, whatever goes wrong on the way."""

import shutil
import signal
import time

import numpy as np
import pytest

from tests.publish.clients import DATASET, MODEL, REPO, SPACE, holds, pushed, start_push, uploads
from tests.publish.hub_server import Fault


def test_each_push_is_one_commit(hub, published):
    for kind, repo_id in (("model", MODEL), ("dataset", DATASET), ("space", SPACE)):
        newest, first = hub.repo(kind, repo_id).history()
        assert newest.title == f"Publish the {kind}"
        assert first.title == "initial commit"
        assert not hub.repo(kind, repo_id).private


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A staged repository in small: a card, two files for LFS, one of them of several parts, and a text."""
    folder = tmp_path_factory.mktemp("staged")
    (folder / "README.md").write_text("---\nlicense: mit\n---\n\n# Cells\n")
    rng = np.random.default_rng(0)
    (folder / "large.bin").write_bytes(rng.bytes(20 * 2**20))
    (folder / "part").mkdir()
    (folder / "part" / "small.bin").write_bytes(rng.bytes(2**18))
    (folder / "notes.txt").write_text("about cells\n")
    return folder


def test_a_second_push_makes_a_commit_of_what_changed_only(fresh, folder, tmp_path):
    mine = tmp_path / "mine"
    shutil.copytree(folder, mine)
    assert pushed(fresh, tmp_path, mine)[0] == "pushed"
    assert holds(fresh, mine)
    assert pushed(fresh, tmp_path, mine)[0] == "unchanged"
    sent = len(uploads(fresh))
    (mine / "notes.txt").write_text("more about cells\n")
    (mine / "part" / "small.bin").unlink()
    (mine / "part").rmdir()
    assert pushed(fresh, tmp_path, mine)[0] == "pushed"
    assert holds(fresh, mine)
    assert len(fresh.repo("model", REPO).history()) == 3
    assert len(uploads(fresh)) == sent


def test_pushes_to_a_branch_and_as_a_pull_request(fresh, folder, tmp_path):
    assert pushed(fresh, tmp_path, folder, private=True)[0] == "pushed"
    repo = fresh.repo("model", REPO)
    assert repo.private
    head, mine = repo.commit("main"), tmp_path / "mine"
    shutil.copytree(folder, mine)
    (mine / "notes.txt").write_text("another view\n")
    assert pushed(fresh, tmp_path, mine, revision="v2")[0] == "pushed"
    assert holds(fresh, mine, "v2")
    assert repo.commit("main") == head
    assert pushed(fresh, tmp_path, mine, create_pr=True)[0] == "pushed"
    assert holds(fresh, mine, "refs/pr/1")
    assert repo.commit("main") == head


def test_a_tag_means_the_same_files_for_good(fresh, folder, tmp_path):
    mine = shutil.copytree(folder, tmp_path / "mine")
    (mine / "CHANGELOG.md").write_text("# Versions\n\n## v2, 2026-12\n\nMore labs.\n\n## v1\n\nTwo labs.\n")
    assert pushed(fresh, tmp_path, mine, tag="v1")[0] == "pushed"
    repo = fresh.repo("model", REPO)
    first = repo.commit("main").id
    assert repo.tags == {"v1": (first, "Two labs.")}
    assert pushed(fresh, tmp_path, mine, tag="v1")[0] == "unchanged"
    (mine / "notes.txt").write_text("another view\n")
    assert "the tag v1 of" in pushed(fresh, tmp_path, mine, tag="v1")[1]
    said, errors = pushed(fresh, tmp_path, mine, tag="v3")
    assert (said, "CHANGELOG.md has no section v3" in errors) == ("failed", True)
    fresh.faults.append(Fault("POST", "/tag/", status=500))
    assert "broke off" in pushed(fresh, tmp_path, mine, tag="v2")[1]
    assert repo.tags.keys() == {"v1"}
    assert pushed(fresh, tmp_path, mine, tag="v2")[0] == "unchanged"  # and tagged
    assert repo.tags == {"v1": (first, "Two labs."), "v2": (repo.commit("main").id, "More labs.")}
    assert pushed(fresh, tmp_path, folder, tag="v1")[0] == "failed"
    assert holds(fresh, mine)


def test_does_not_call_private_what_is_public(fresh, folder, tmp_path):
    assert pushed(fresh, tmp_path, folder)[0] == "pushed"
    said, errors = pushed(fresh, tmp_path, folder, private=True)
    assert said == "failed"
    assert "is public" in errors


@pytest.mark.parametrize(
    "fault",
    [
        Fault("POST", "/preupload/", times=2),
        Fault("POST", "/objects/batch", status=429, headers={"Retry-After": "1"}),
        Fault("PUT", "/lfs/.*/part/2", kind="drop", after=2**20),
        Fault("PUT", r"/lfs/\w+/\d+$", kind="drop", after=2**16),
        Fault("PUT", "/lfs/", status=500),
        Fault("POST", "/lfs/.*/complete", status=503),
    ],
    ids=lambda fault: f"{fault.kind} {fault.status} {fault.path}",
)
def test_what_passes_costs_no_second_try(fresh, folder, tmp_path, fault):
    fresh.faults.append(fault)
    assert pushed(fresh, tmp_path, folder)[0] == "pushed"
    assert fault.times == 0
    assert holds(fresh, folder)
    assert len(fresh.repo("model", REPO).history()) == 2


@pytest.mark.parametrize(
    "fault",
    [
        Fault("POST", "/repos/create", status=500),
        Fault("POST", "/commit/main", status=500),
        Fault("POST", "/commit/main", status=429, headers={"Retry-After": "1"}),
        Fault("POST", "/commit/main", kind="drop", after=100),
        Fault("PUT", "/lfs/.*/part/2", status=403),
    ],
    ids=lambda fault: f"{fault.kind} {fault.status} {fault.path}",
)
def test_a_push_that_breaks_off_commits_nothing_and_the_next_one_all(fresh, folder, tmp_path, fault):
    fresh.faults.append(fault)
    said, errors = pushed(fresh, tmp_path, folder)
    assert said == "failed"
    assert fault.times == 0
    assert f"error: the push to {REPO} broke off: " in errors
    assert "Traceback" not in errors
    assert ("model", REPO) not in fresh.repos or len(fresh.repo("model", REPO).history()) == 1
    sent = uploads(fresh)
    assert pushed(fresh, tmp_path, folder)[0] == "pushed"
    assert holds(fresh, folder)
    assert len(fresh.repo("model", REPO).history()) == 2
    if "/commit/" in fault.path:
        assert uploads(fresh) == sent  # large files are there already


def test_a_commit_whose_answer_is_lost_is_there_once(fresh, folder, tmp_path):
    fresh.faults.append(Fault("POST", "/commit/main", kind="lost"))
    assert pushed(fresh, tmp_path, folder)[0] == "failed"
    assert holds(fresh, folder)
    assert len(fresh.repo("model", REPO).history()) == 2
    assert pushed(fresh, tmp_path, folder)[0] == "unchanged"


def test_a_branch_of_a_push_that_broke_off_is_gone(fresh, folder, tmp_path):
    assert pushed(fresh, tmp_path, folder)[0] == "pushed"
    other = tmp_path / "other"
    other.mkdir()
    (other / "notes.txt").write_text("v2\n")
    fresh.faults.append(Fault("POST", "/commit/v2", status=500))
    assert pushed(fresh, tmp_path, other, revision="v2")[0] == "failed"
    assert set(fresh.repo("model", REPO).refs) == {"refs/heads/main"}


def test_does_not_write_over_what_somebody_else_pushes_meanwhile(fresh, folder, tmp_path):
    def meanwhile():
        repo = fresh.repo("model", REPO)
        head = repo.commit("main")
        tree = head.tree | {"theirs.txt": fresh.store(b"theirs\n")}
        fresh.add_commit(repo, "refs/heads/main", head.id, "Theirs", "", tree)

    fresh.faults.append(Fault("POST", "/commit/main", kind="meanwhile", action=meanwhile))
    said, errors = pushed(fresh, tmp_path, folder)
    assert said == "failed"
    assert "A commit has happened since" in errors
    assert fresh.repo("model", REPO).commit("main").title == "Theirs"


def test_a_killed_push_leaves_nothing_and_can_be_repeated(fresh, folder, tmp_path):
    fresh.faults.append(Fault("PUT", "/lfs/.*/part/2", kind="slow", seconds=1))
    process = start_push(fresh, tmp_path, folder)
    while not any("/part/1" in path for path in uploads(fresh)):
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert len(fresh.repo("model", REPO).history()) == 1
    assert pushed(fresh, tmp_path, folder)[0] == "pushed"
    assert holds(fresh, folder)
