"""Users' data: files and hub data sets, read row by row into prompts, completions and pairs."""
