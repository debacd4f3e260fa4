"""The command line, and the runs it carries out on this machine."""
