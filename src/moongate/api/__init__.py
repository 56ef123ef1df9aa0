"""The web application: one FastAPI app, mounted from families that do not know one another."""
