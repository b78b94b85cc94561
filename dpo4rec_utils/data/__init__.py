"""Data: two tables, yours or a built-in data set, users with histories and futures, the user split, candidate lists."""
