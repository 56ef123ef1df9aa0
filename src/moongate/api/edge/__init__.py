"""The family of published services: `/api/*` for tunnels, tokens, history, records and events."""

from moongate.api.edge import certificates, events, records, replay, status, tokens, tunnels

routers = (
    status.router,
    tunnels.router,
    replay.router,
    tokens.router,
    records.router,
    certificates.router,
    events.router,
)
