"""The benchmarks themselves, one module for each of the promises they measure."""
