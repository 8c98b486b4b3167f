"""Races and measurements; each writes its rows into ``bench/results/``."""
