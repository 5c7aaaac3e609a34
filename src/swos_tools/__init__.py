"""Command-line programs on swos_net; each module is one console script and a consumer of the library like any other."""
