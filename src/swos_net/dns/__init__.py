"""The client side of DNS as protocol state: names and `now` in, datagrams and the next deadline out.

Read first: lookup.py, then exchange.py.  The wire format is dnslib's; message.py keeps it there.  Sockets, capabilities
and the standard library's calls are in `swos_net.socket.resolver`.
"""
