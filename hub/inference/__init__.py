"""Many images to a table of cells."""
