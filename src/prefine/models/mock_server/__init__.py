"""A chat server that misbehaves on purpose: for rehearsals before a key and money are used."""
