"""Evidence: records in, statistics, tables, figures and pages out. Imports neither torch nor a stage of the study."""
