"""Blocking sockets on a stack that a thread serves, with the methods of the standard library's."""

from swos_net.socket.blocking import AF_INET, AF_INET6, SOCK_DGRAM, SOCK_STREAM, Socket, create_connection, create_server

__all__ = ["AF_INET", "AF_INET6", "SOCK_DGRAM", "SOCK_STREAM", "Socket", "create_connection", "create_server"]
