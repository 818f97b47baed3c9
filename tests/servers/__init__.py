"""Servers that tests start on 127.0.0.1 under a free port, and that stop with the test."""
