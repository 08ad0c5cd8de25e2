"""What planners of several backends share: sizes, views, fusion groups."""
