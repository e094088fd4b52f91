"""The dialogue, the settings, options, clocks, addresses and the terminal."""
