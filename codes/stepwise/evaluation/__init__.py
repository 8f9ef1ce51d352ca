"""Measures of reconstructions and samples."""
