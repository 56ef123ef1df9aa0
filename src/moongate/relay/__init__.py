"""Moving bytes: links between agent and node, the channels they carry, and joining two transports."""
