"""The output directory: names, part files, journals."""
