"""A model's server behind the gateway, for the peers' table: run as a file, from any folder.

The web process is the real one, as `bench.gateway` starts it; the model's server is the one that is
measured alone as well. In the folder where it is run it keeps what it needs.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from bench.gateway import gateway  # noqa: E402 (found through the line above)
from deploy.servers import free_port  # noqa: E402


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--server", type=json.loads, help="its command, as a JSON list")
    parser.add_argument("--server-port", type=int)
    parser.add_argument("--port", type=int)
    options = parser.parse_args()
    with (
        subprocess.Popen(options.server) as server,
        gateway(
            Path.cwd() / "home",
            port=options.port,
            stand_in_port=free_port(),
            server_port=options.server_port,
        ),
    ):
        # Both are ended with the session they are in.
        return server.wait()


if __name__ == "__main__":
    sys.exit(main())
