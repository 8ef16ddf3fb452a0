"""Paint strokes and a mask in a browser, and edit them with SDEdit; see docs/paint.md."""

import argparse
import contextlib
import os
import secrets
import socket
import sys
import webbrowser

from utils import command, exits, option, settings, threads
from utils.running import PRECISIONS

HOST = "127.0.0.1"


def build_parser() -> command.StrictParser:
    """Return the command line."""
    parser = command.StrictParser(__doc__.splitlines()[0])
    parser.prog = "python -m tools.paint"  # argparse would say __main__.py
    command.add_options(parser, settings.Network, required=("weights",))
    add = parser.add_argument_group("page").add_argument
    add("--port", type=port, default=0, metavar="N", help="of this machine alone; 0 for any that is free")
    add("--open", action="store_true", help="open the page in the browser of this machine")
    add("--sampler", choices=settings.SAMPLERS, help="what the page begins with")
    add("--precision", choices=PRECISIONS, default="auto", help="of the network; auto is fp32")
    add("--cpu", action="store_true", help="run on the CPU even where there is a GPU")
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
    with command.report_errors(parser):
        network = option.make(settings.Network, vars(args))
        if problems := command.wrong_files(network):
            raise ValueError("\n".join(problems))
        threads.prepare()
        with listen(args.port) as listener:
            try:
                import uvicorn  # noqa: F401  missing it is said before the weights are read

                from tools.paint.edits import Painter
                from tools.paint.queue import Queue
                from tools.paint.server import make_app
            except ImportError as error:
                raise ValueError(f"{error}; pip install -r requirements-paint.txt") from None
            painter = Painter(load_editor(network, args), args.sampler)
            queue, token = Queue(), secrets.token_urlsafe(24)
            server = make_server(make_app(painter, queue, token), token)
            address = f"http://{HOST}:{listener.getsockname()[1]}/{token}/"
            with contextlib.suppress(KeyboardInterrupt):  # uvicorn passes the signal on when it has ended
                print(f"paint at {address}\n(this machine only; Ctrl-C ends it)", flush=True)
                if args.open:
                    webbrowser.open(address)  # it connects to the listener, and waits for the server
                server.run(sockets=[listener])
            queue.close(0)
    return exits.DONE


def load_editor(network: settings.Network, args: argparse.Namespace):
    """Load the network that edits."""
    from utils.assemble import Editor

    named = {one: getattr(network, one) for one in option.names_of(settings.Network) if one != "weights"}
    how = {"precision": args.precision, "cpu": args.cpu}
    return Editor.load(network.weights, **named, **how)


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

    from tools.paint.connections import protocol_for

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
