"""Alignment: preference pairs from rewards, prefix sharing, and trl's trainers."""
