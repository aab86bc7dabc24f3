"""The networks and the one table of their names.

Every network maps RGB crops (N, 3, H, W), normalised as its card says, to raw heatmaps
(N, J, H/4, W/4).
"""

from posenets.networks.table import (
    JOINT_WEIGHTS,
    NETWORKS,
    Convention,
    Network,
    build_network,
    find_network,
)

__all__ = ["JOINT_WEIGHTS", "NETWORKS", "Convention", "Network", "build_network", "find_network"]
