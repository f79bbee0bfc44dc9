"""The built-in commands of ``mdserver run NAME``; each module defines a ``plugin``, as a third party's would."""
