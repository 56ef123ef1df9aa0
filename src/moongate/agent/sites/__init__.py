"""Folders served over HTTP/1.1 on a visitor's channel, alone or in front of an upstream."""

from moongate.agent.sites.folder import FileCache, Folder
from moongate.agent.sites.serving import Reach, Site, Sites

__all__ = ["FileCache", "Folder", "Reach", "Site", "Sites"]
