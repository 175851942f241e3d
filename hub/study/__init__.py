"""Questions that were asked once, each with the code that answers it. Nothing imports it but the entry points."""
