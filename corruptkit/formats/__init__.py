"""One module a layout: how to read it and how to write it. No module here knows a corruption."""
