"""The command line: from words to a request, and each command to its exit code."""
