"""Tests of the ground: protocol, settings, options, clocks, addresses, JSON and the terminal."""
