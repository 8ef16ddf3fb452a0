"""Paint strokes and a mask in a browser, and edit them with SDEdit; see docs/paint.md."""

import argparse
import contextlib
import os
import secrets
import socket
import sys
import webbrowser
from pathlib import Path

if not __package__:  # python tools/paint.py, in place of python -m tools.paint
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import sample_sdedit
from utils import exits, threads
from utils.command import command_line, options

HOST = "127.0.0.1"


def build_parser() -> command_line.StrictParser:
    """Return the command line."""
    parser = command_line.StrictParser(__doc__.splitlines()[0])
    parser.set_defaults(dry_run=False)
    options.add_network_options(parser)
    add = parser.add_argument
    add("--port", type=port, default=0, help="of the page, on this machine alone; 0 for any that is free")
    add("--open", action="store_true", help="open the page in the browser of this machine")
    add("--sampler", choices=options.SAMPLERS, default="ddpm", help="how to step down")
    add("--precision", choices=options.PRECISIONS, default="auto", help="of the network; auto is fp32")
    return parser


def port(text: str) -> int:
    """Parse the number of a port, or 0."""
    if not text.isascii() or not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 to 65535")
    return int(text)


def main(argv: list[str] | None = None) -> int:
    """Serve the page until Ctrl-C."""
    parser = build_parser()
    args = parser.parse_args(argv)
    with command_line.report_errors(parser):
        if problems := options.missing_files(args):
            raise ValueError("\n".join(problems))
        threads.prepare()
        with listen(args.port) as listener:
            try:
                import uvicorn  # noqa: F401  missing it is said before the weights are read

                from tools import paint_edits, paint_queue, paint_server
            except ImportError as error:
                raise ValueError(f"{error}; pip install -r requirements-paint.txt") from None
            from utils import assemble, jobs

            assemble.settle_weights(args)
            place = jobs.start(args.cpu, args.precision)
            painter = paint_edits.Painter(edit_options(args), place)
            queue, token = paint_queue.Queue(), secrets.token_urlsafe(24)
            server = make_server(paint_server.make_app(painter, queue, token), token)
            address = f"http://{HOST}:{listener.getsockname()[1]}/{token}/"
            with contextlib.suppress(KeyboardInterrupt):  # uvicorn passes the signal on when it has ended
                print(f"paint at {address}\n(this machine only; Ctrl-C ends it)", flush=True)
                if args.open:
                    webbrowser.open(address)  # it connects to the listener, and waits for the server
                server.run(sockets=[listener])
            queue.close(0)
    return exits.DONE


def edit_options(args: argparse.Namespace) -> argparse.Namespace:
    """Return the options that sample_sdedit.py has by default, with those that were given here."""
    words = ["--weights", "-", "--input_dir", ".", "--save_dir", ".", "--t0", "0.5"]
    defaults = sample_sdedit.build_parser().parse_args(words)
    chosen = ("config", "weights", "sampler", "precision", "cpu", "overrides")
    given = {key: getattr(args, key) for key in chosen}
    return argparse.Namespace(**{**vars(defaults), **given})


def listen(number: int) -> socket.socket:
    """Take a port of this machine alone.

    Raises:
        ValueError: Another program has it, or it is not allowed.
    """
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((HOST, number))
        listener.listen()
    except OSError as error:
        listener.close()
        raise ValueError(f"--port {number}: {error.strerror}; give another, or none") from None
    return listener


def make_server(app, token: str):
    """Return what serves the page."""
    import uvicorn

    from tools.paint_connections import protocol_for

    return uvicorn.Server(
        uvicorn.Config(
            app,
            lifespan="off",
            ws="none",
            access_log=False,  # the token is part of every path
            log_level="warning",
            server_header=False,
            http=protocol_for(token),
            timeout_graceful_shutdown=1,
        )
    )


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    os._exit(code)  # at once: a running step and the end of torch take seconds, and nothing is to be saved
