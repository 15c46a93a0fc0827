"""What is common to all files of others."""

from pathlib import Path


def check_regular(path: str | Path) -> None:
    """Refuses what is there but no regular file: a pipe would be waited for, for ever.

    Args:
      path: a file, or a link to one, which need not be there.

    Raises:
      ValueError: if it is a directory, a pipe, a socket or a device.
    """
    path = Path(path)
    if path.exists() and not path.is_file():
        raise ValueError(f"{path} is not a regular file; remove or replace it.")
