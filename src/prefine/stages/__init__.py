"""The stages of a run. A stage never imports a stage: they meet on disk."""
