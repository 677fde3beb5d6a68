"""Results turned into something a person reads: tables, HTML, JSON. Pure."""
