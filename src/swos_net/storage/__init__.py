"""Containers with no protocol knowledge."""
