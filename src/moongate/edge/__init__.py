"""The public side of tunnels: who holds a name, who may be let through, and what a visitor gets."""
