"""The sections of a run's page, each with its template beside it."""
