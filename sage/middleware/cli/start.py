"""The entry point of ``sage``: the server is started without what other commands need."""

from __future__ import annotations

import sys

from sage.middleware.app.loading import quick_loading


def main() -> None:
    """Runs the command that the arguments name, as :func:`sage.middleware.cli.main.main` does."""
    if sys.argv[1:2] == ["serve"]:
        with quick_loading():
            from sage.middleware.cli.root import make_app, run
            from sage.middleware.cli.serve import serve_command
        app = make_app()
        app.command("serve")(serve_command)
        run(app)
    else:
        from sage.middleware.cli.main import main as run_any

        run_any()


if __name__ == "__main__":
    main()
