"""Predictions to figures: metrics, intervals, subsets, comparisons, plots and tables."""
