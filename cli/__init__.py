"""The command line: one file per command; each parses, opens, calls one library function, prints.

Libraries that take longer than a tenth of a second to import are imported inside the commands that need them, so that
`glasshouse --help` answers at once.
"""
