"""What a node process and an agent process are made of: the places that put the parts together.

Nothing is imported here, so that an agent does not carry what only a node needs.
"""
