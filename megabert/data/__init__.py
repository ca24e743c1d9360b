"""Shards, tokenisation, pairs, masking and the loader; everything but the loader is numpy only."""
