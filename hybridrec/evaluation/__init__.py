"""What a ranking is worth: metrics, statistics, controls, the comparison, costs."""
