"""The run folder: journals, Parquet shards, manifest, leases; and the readers of users' files."""
