"""What holds for all tests, the server's and the plugins'."""

from hypothesis import settings

# No deadline per example: on a busy machine it fails by chance, and shrinking such a failure takes for ever.
settings.register_profile("mdserver", deadline=None)
if settings.get_current_profile_name() == "default":  # with CI=true Hypothesis brings its own, repeatable one
    settings.load_profile("mdserver")
