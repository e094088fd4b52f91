"""The tests, in the rooms of the code; the tools that look for faults; the measurements."""
