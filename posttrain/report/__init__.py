"""The report: what a run's records say, as JSON, as Markdown and as one page. Knows records; knows no model."""
