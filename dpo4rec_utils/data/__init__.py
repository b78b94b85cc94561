"""Data: two tables, own ones or a known data set, users with histories and futures, the user split, candidate lists."""
