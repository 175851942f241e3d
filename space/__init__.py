"""The parts of the Space that `app.py` lays out; they travel with it and import nothing else of this repository."""
