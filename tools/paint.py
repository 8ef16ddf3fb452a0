"""Paint strokes and a mask in a browser, and edit them with SDEdit; see docs/paint.md."""

import argparse
import contextlib
import os
import secrets
import socket
import sys
from pathlib import Path

if not __package__:  # python tools/paint.py, in place of python -m tools.paint
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import sample_sdedit
from utils import options

HOST = "127.0.0.1"
_PATIENCE_S = 1.0


def build_parser() -> options.StrictParser:
    """Return the command line."""
    parser = options.StrictParser(__doc__.splitlines()[0])
    add = parser.add_argument
    add("-c", "--config", type=Path, required=True, help="YAML file of the network and its diffusion")
    add("--weights", type=Path, required=True, help="checkpoint: .safetensors, .pt, .pth or .ckpt")
    add("--port", type=port, default=0, help="of the page, on this machine alone; 0 for any that is free")
    add("--open", action="store_true", help="open the page in the browser of this machine")
    add("--sampler", choices=options.SAMPLERS, default="ddpm", help="how to step down")
    add("--precision", choices=options.PRECISIONS, default="auto", help="of the network; auto is fp32")
    add("--cpu", action="store_true", help="run on the CPU even where there is a GPU")
    add(
        "--set",
        dest="overrides",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="override one config entry, as in --set diffusion.var_type=fixed_large; may be repeated",
    )
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
    with options.report_errors(parser):
        if problems := options.missing_files(args):
            raise ValueError("\n".join(problems))
        with listen(args.port) as listener:
            try:
                import uvicorn  # noqa: F401  missing it is said before the weights are read

                from tools import paint_edits, paint_queue, paint_server
            except ImportError as error:
                raise ValueError(f"{error}; pip install -r requirements-paint.txt") from None
            from utils import launch

            place = launch.start(args.cpu, args.precision)
            painter = paint_edits.Painter(edit_options(args), place)
            queue, token = paint_queue.Queue(), secrets.token_urlsafe(24)
            server = make_server(paint_server.make_app(painter, queue, token))
            address = f"http://{HOST}:{listener.getsockname()[1]}/{token}/"
            print(f"paint at {address}\n(this machine only; Ctrl-C ends it)", flush=True)
            serve(server, listener, address if args.open else None)
            if not queue.close(_PATIENCE_S):
                sys.stdout.flush()
                os._exit(options.EXIT_DONE)  # a step of a large network takes longer, and nothing is lost
    return options.EXIT_DONE


def edit_options(args: argparse.Namespace) -> argparse.Namespace:
    """Return the options that sample_sdedit.py has by default, with those that were given here."""
    words = ["-c", str(args.config), "--weights", str(args.weights), "--input_dir", ".", "--save_dir", "."]
    defaults = sample_sdedit.build_parser().parse_args([*words, "--t0", "0.5"])
    given = {key: getattr(args, key) for key in ("sampler", "precision", "cpu", "overrides")}
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


def make_server(app):
    """Return what serves the page."""
    import uvicorn

    return uvicorn.Server(
        uvicorn.Config(
            app,
            lifespan="off",
            ws="none",
            access_log=False,  # the token is part of every path
            log_level="warning",
            server_header=False,
            limit_concurrency=64,
            timeout_graceful_shutdown=1,
        )
    )


def serve(server, listener: socket.socket, address: str | None) -> None:
    """Answer requests until Ctrl-C or SIGTERM."""
    if address:
        import webbrowser

        webbrowser.open(address)  # it connects to the listener, which waits for the server
    with contextlib.suppress(KeyboardInterrupt):  # uvicorn has ended, and passes the signal on
        server.run(sockets=[listener])


if __name__ == "__main__":
    sys.exit(main())
