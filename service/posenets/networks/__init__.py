"""The networks and the one table of their names.

Every network maps RGB crops (N, 3, H, W), normalised as its card says, to raw heatmaps
(N, J, H/4, W/4).
"""

from posenets.networks.table import NETWORKS, Convention, Network, build_network

__all__ = ["NETWORKS", "Convention", "Network", "build_network"]
