"""Peers and models to test against: they ship with the library but nothing in it imports them.

For users: `network.Network` (hosts, routers and links in virtual time), `aio` (asyncio programs on them),
`recorder.Recorder`, `checkers`.  See docs/testing.md.
"""
