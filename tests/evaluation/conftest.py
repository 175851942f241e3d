import socket

import pytest


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refuse(*args, **kwargs):
        raise OSError("a test reached for the network")

    monkeypatch.setattr(socket, "socket", refuse)
