import argparse
import contextlib
import threading
from pathlib import Path
from urllib.parse import quote

from tests.publish.hub_server import HubServer

parser = argparse.ArgumentParser(description="Run a Hub on the loopback interface until Ctrl-C.")
parser.add_argument("--root", type=Path, required=True, help="the folder to keep uploads in")
parser.add_argument("--port", type=int, default=0)
args = parser.parse_args()
with HubServer(args.root, args.port) as hub:
    print(" ".join(f"{name}={quote(value, safe=':/.')}" for name, value in hub.environment().items()), flush=True)
    with contextlib.suppress(KeyboardInterrupt):
        threading.Event().wait()
