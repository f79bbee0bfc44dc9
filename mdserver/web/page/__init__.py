"""The page at ``/`` and the description of the HTTP interface at ``/docs``: files that a browser loads."""
