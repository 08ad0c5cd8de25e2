"""Runs the IR op by op through torch."""
