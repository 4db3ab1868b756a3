"""Bytes on disk: read without trust, written whole, locked and hashed."""
