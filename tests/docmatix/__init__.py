"""Tests of the builder of questions on document pages."""
