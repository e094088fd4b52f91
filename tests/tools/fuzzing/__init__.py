"""The parts of the fuzzer."""
