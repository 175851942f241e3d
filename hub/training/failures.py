"""The end of a training that failed: one line for what a user can mend."""

from collections.abc import Callable

from hub.files import UserError, dead_worker, ignore_ended_processes


def failure_of(main: Callable[[], None]) -> str | None:
    """Run a program.

    Args:
        main: The program.

    Returns:
        Its exit message, `error: ` and one line, after a user's error or the death of a worker process; None if it
        went well.
    """
    try:
        main()
    except UserError as error:
        return f"error: {error}"
    except (RuntimeError, OSError, EOFError) as error:
        if (reason := dead_worker(error)) is None:
            raise
        ignore_ended_processes()
        return (
            f"error: {reason}. Lower --dataloader_num_workers, or free memory, and start again; where a checkpoint "
            "was saved, with --resume_from_checkpoint last."
        )
    return None
