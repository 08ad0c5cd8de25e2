"""Statistics of values on calibration data, in bounded memory: sums that grow batch by batch, and batches that go
through a graph side by side."""
