"""Does the catalogue agree with the spaces, the vectors, the shards and the files on disk; and mending it.

A repair never invents data: it removes leftovers of interrupted writes, finishes what is complete, and marks what is
lost as not extracted, so that the next `glasshouse extract` makes it again.
"""
