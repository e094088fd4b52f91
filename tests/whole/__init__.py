"""Client and server together, over good networks and bad ones."""
