"""A load test of the server in `examples/serve`, on the loopback."""
