"""The private side of tunnels: keeps a link to the node up and answers visitors by dialing local upstreams."""
