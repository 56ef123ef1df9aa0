"""What happened: connection records, captured exchanges, the history of tunnels, and the stream of events."""
