"""The command line: one file per command; each parses, opens, calls one library function, prints."""
