"""A Ray cluster of two nodes on this machine's loopback, until standard input closes: `python two_nodes.py FOLDER`.

Prints the Jobs API's address once both nodes are there. Everything Ray writes goes under FOLDER.
"""

from __future__ import annotations

import os
import sys

# Ray would replace 127.0.0.1 by the machine's own address; it reads this when it is imported.
os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"

from ray.cluster_utils import Cluster

NODE = {
    "num_cpus": 2,
    "object_store_memory": 80 * 2**20,
    "node_ip_address": "127.0.0.1",
    "dashboard_agent_listen_port": 0,  # 52365 by default, which another Ray on this machine may have
}


def main(folder: str) -> None:
    """Serve until the parent closes our standard input or dies."""
    head = NODE | {"temp_dir": folder, "include_dashboard": True, "dashboard_host": "127.0.0.1", "dashboard_port": 0}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        cluster.add_node(**NODE)
        cluster.wait_for_nodes(timeout=60)
        print(f"http://{cluster.head_node.webui_url}", flush=True)
        sys.stdin.read()
    finally:
        cluster.shutdown()


if __name__ == "__main__":
    main(sys.argv[1])
