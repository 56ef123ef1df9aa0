"""Side-by-side benchmarks: Moongate against nginx, HAProxy and OpenSSH with the same hops and the same encryption."""
