"""What a node process is made of: the one place that puts the parts together."""

from moongate.node.server import Node
from moongate.node.sites import static_sites

__all__ = ["Node", "static_sites"]
