"""Who is served badly, how reliably that can be told, and how much of it is luck."""
