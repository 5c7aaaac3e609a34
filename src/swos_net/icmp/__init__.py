"""ICMP behaviour of both families: errors and echo."""
