"""``locklane compare --peer git-annex``: Locklane and ``git annex p2phttp`` side by side, on the
same content, under the same load, in interleaved rounds."""
