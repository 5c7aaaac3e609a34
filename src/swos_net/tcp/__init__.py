"""TCP, sans-IO: segments and `now` in, segments and the next deadline out.  The names are those of RFC 9293."""
