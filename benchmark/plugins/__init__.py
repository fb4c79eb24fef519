"""Other people's code in this process: how it is named, contained, limited and hashed."""
