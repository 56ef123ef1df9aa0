"""The public side of tunnels: HTTP, TCP and passed-through TLS visitors; pick a route, open a channel, relay."""
