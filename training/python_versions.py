"""Which Python versions jobs may ask for, and which runner image has which."""

from django.conf import settings

from sandbox.environments import EnvironmentFailed


def default_python() -> str:
    """Of who asks for none."""
    return str(settings.PYTHON_VERSIONS[0])


def image_of(python_version: str) -> str:
    """The runner image; empty is for jobs of before there was a choice, which had the default.

    Raises EnvironmentFailed for a version that was offered once.
    """
    image = settings.PYTHON_IMAGES.get(python_version or default_python())
    if image is None:
        offered = ", ".join(settings.PYTHON_VERSIONS)
        raise EnvironmentFailed(
            reason="python_not_offered",
            detail=f"Python {python_version} is not offered any more.",
            hint=f"Run the job again with another python_version: {offered}.",
        )
    return str(image)


def version_of(image: str) -> str:
    """The Python of a runner image; empty for one that is not in use any more."""
    versions = (version for version, one in settings.PYTHON_IMAGES.items() if one == image)
    return next(versions, "")
