"""Images and what is known about them on their way into the catalogue."""
