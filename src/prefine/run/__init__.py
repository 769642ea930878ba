"""The run folder: its journal, tables and configuration."""
