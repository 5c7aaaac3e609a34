"""HTTP/1.1 for static files over any asyncio transport: read protocol.py first, then static.py."""
