"""Everything between a message and the socket."""
