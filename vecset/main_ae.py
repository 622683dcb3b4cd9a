"""Training entry: flags, one task, exit code. `python vecset/main_ae.py --help`, or the same under torchrun or srun.

The flags are in engines/arguments.py and engines/argument_checks.py, what they start in engines/tasks.py.
"""

import sys
import time
from pathlib import Path

ROOT = str(Path(__file__).resolve().parents[1])
# the repository root in place of this script's folder, whose data/ and models/ would shadow other packages
if sys.path and Path(sys.path[0] or ".").resolve() == Path(__file__).resolve().parent:
    sys.path[0] = ROOT
elif ROOT not in sys.path:
    sys.path.insert(0, ROOT)

from vecset.common.cores import limit_threads  # noqa: E402
from vecset.common.errors import run_command  # noqa: E402
from vecset.common.memory import keep_freed_memory  # noqa: E402

limit_threads()  # before torch is imported
keep_freed_memory()

from vecset.engines.arguments import parse_arguments  # noqa: E402


def main(argv: list[str] | None = None) -> int:
    return _run(argv, parse_arguments(argv))


def _run(argv, args):
    # here, for torch is imported with them: --help and a wrong flag take no seconds
    from vecset.engines.argument_checks import check_arguments
    from vecset.engines.compiling import compile_error, is_compile_error
    from vecset.engines.distributed import environment_rank, lost_contact, start_ranks, stop_ranks, told_once
    from vecset.engines.loop import NotFiniteError
    from vecset.engines.stop import EXIT_NOT_FINITE, StopRequest
    from vecset.engines.tasks import as_trained, dry_run, evaluate_checkpoint, train
    from vecset.items.loader import worker_death

    try:
        with told_once(environment_rank()):
            if args.eval:
                args = as_trained(argv, args)
            check_arguments(args)
            ranks = start_ranks(args.device, args.wait_for_ranks)
        task = evaluate_checkpoint if args.eval else dry_run if args.dry_run else train
        with StopRequest() as stop:
            code = task(args, ranks, stop)
        stop_ranks(ranks)
        return code
    except NotFiniteError as error:
        if environment_rank() == 0:
            print(f"error: {error}", file=sys.stderr)
        else:
            time.sleep(2)  # rank 0 says it before this one's end makes the launcher stop all
        return EXIT_NOT_FINITE
    except RuntimeError as error:
        death = worker_death(error, args.num_workers)
        if death:
            raise death from None
        if args.compile and is_compile_error(error):
            raise compile_error(error) from None
        if not lost_contact(error):
            raise
        first_line = str(error).split("\n")[0]
        print(
            f"error: rank {environment_rank()} lost contact with another process ({first_line}); see that one's own "
            "'error:' line or traceback, or 'Signal' below",
            file=sys.stderr,
        )
        return 1


if __name__ == "__main__":
    sys.exit(run_command(main))
