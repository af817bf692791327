"""Exported files: writing each format, and measuring the file itself in the runtime that its users will have."""
