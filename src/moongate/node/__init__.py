"""What a node process is made of: the one place that puts the parts together."""

from moongate.node.server import Node

__all__ = ["Node"]
