"""Parts of a whole small network for tests and the soak: processes that start fast, and chains of two kinds."""
