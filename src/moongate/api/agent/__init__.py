"""The family of the agent: what it publishes and how it fares, told and changed over HTTP on its own machine only."""
