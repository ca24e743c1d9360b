"""Tests of megabert."""
