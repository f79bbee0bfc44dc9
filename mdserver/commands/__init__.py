"""The built-in commands of ``mdserver run NAME``; each module has a ``plugin`` as a third party's would."""
