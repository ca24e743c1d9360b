"""Tests of megabert.probe."""
