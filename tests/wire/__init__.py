"""Frames, blocks, codecs, sockets, TLS and connections, without a server."""
