"""A long mixed load on real servers, and whether they are afterwards as they were before: memory,
descriptors, threads, locks. The command is ``locklane soak``."""
