"""Files: safe names, atomic writes, formats that carry their checksum, locks. No torch."""
