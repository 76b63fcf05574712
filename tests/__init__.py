"""Tests: one file for each module, and the laws."""
