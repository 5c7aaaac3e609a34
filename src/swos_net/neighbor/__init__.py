"""Who is on the link: the neighbour cache and the protocols that fill it, sans-IO, one instance of each per interface.

Every object here answers the same questions: packets in with `now`, `packets_to_send(now)`, `next_deadline()`,
`handle_timeout(now)`, `next_event()`.  `now` is a monotonic time in seconds.  IP addresses are 16 bytes.
"""
