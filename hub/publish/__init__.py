"""Staged repositories, and pushes of one commit each."""
