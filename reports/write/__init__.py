"""Writing the report: page, JSON, Markdown, model card."""
