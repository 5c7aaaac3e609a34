"""Peers and models to test against: they ship with the library but nothing in it imports them."""
