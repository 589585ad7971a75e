"""Audits as people read them: the rows with labels, the images that lean on what was flagged, and the page."""
