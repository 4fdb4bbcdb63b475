"""Tests of what the gateway holds, on bytes that nobody will ever claim."""
