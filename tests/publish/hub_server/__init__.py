"""A Hub on the loopback interface: the HTTP API that huggingface_hub, transformers and datasets speak, kept on disk.

    python -m tests.publish.hub_server --root DIR     # prints the environment in which the real clients use it

Repositories, revisions, pull requests, trees, LFS uploads in one or in several parts, commits, downloads with ranges
and redirects. Requests are checked as the Hub checks them: hashes, sizes, parents, tokens, metadata of cards. Anything
else is answered by 404. Faults are injected on demand, see [`Fault`].

It speaks LFS and not Xet, whose storage is a service of its own: clients need `HF_HUB_DISABLE_XET=1`.
"""

from tests.publish.hub_server.faults import Fault
from tests.publish.hub_server.server import HubServer
from tests.publish.hub_server.store import TOKEN, USER

__all__ = ["TOKEN", "USER", "Fault", "HubServer"]
