"""Measurements: beside other tools, under load, over far links."""
