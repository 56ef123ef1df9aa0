"""Load generators, origins and the delay relay: small programs, each run as its own process by the benchmarks."""
