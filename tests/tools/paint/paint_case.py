"""A paint page that runs in this process, and a client that talks to it."""

import base64
import http.client
import io
import json
import threading
import time
from contextlib import contextmanager

import numpy as np
from PIL import Image

from tools.paint import __main__ as paint
from tools.paint.edits import Painter
from tools.paint.queue import Queue
from tools.paint.server import make_app
from utils.assemble import Editor

TOKEN = "a-token"


def png(image: Image.Image, **how) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", **how)
    return buffer.getvalue()


def painting(side: int = 40) -> Image.Image:
    image = Image.new("RGB", (side, side), "white")
    image.paste((200, 40, 40), (side // 4, side // 4, side // 2, side - 3))
    return image


def left_half(side: int = 40) -> Image.Image:
    mask = Image.new("L", (side, side), 0)
    mask.paste(255, (0, 0, side // 2, side))
    return mask


def body(**changes) -> dict:
    """What the page sends; None takes an entry away."""
    usual = {"name": "painting", "guide": base64.b64encode(png(painting())).decode()}
    usual |= {"t0": 0.5, "calls": 5, "seed": 0}
    return {key: value for key, value in {**usual, **changes}.items() if value is not None}


class Client:
    """Talks to a page as a browser does."""

    def __init__(self, port: int, token: str = TOKEN):
        self.port, self.prefix = port, f"/{token}/"

    def ask(self, method: str, path: str, content: object = None, headers: dict | None = None, prefix=None):
        """Return (status, headers, body)."""
        if content is not None and not isinstance(content, bytes):
            content = json.dumps(content).encode()
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        where = (self.prefix if prefix is None else prefix) + path
        connection.request(method, where, content, headers or {})
        answer = connection.getresponse()
        found = answer.status, dict(answer.getheaders()), answer.read()
        connection.close()
        return found

    def error(self, *words, **named) -> tuple[int, str]:
        status, _, content = self.ask(*words, **named)
        return status, json.loads(content)["error"]

    def submit(self, **changes) -> dict:
        status, _, content = self.ask("POST", "edits", body(**changes))
        assert status == 202, content
        return json.loads(content)

    def status(self, key: str) -> dict:
        return json.loads(self.ask("GET", f"edits/{key}")[2])

    def wait(self, key: str, *states: str) -> dict:
        for _ in range(600):
            if (found := self.status(key))["state"] in states:
                return found
            time.sleep(0.05)
        raise AssertionError(found)

    def result(self, **changes) -> bytes:
        key = self.submit(**changes)["id"]
        assert self.wait(key, "done", "failed")["state"] == "done", self.status(key)
        return self.ask("GET", f"edits/{key}/result.png")[2]


def make_painter(config, weights) -> Painter:
    return Painter(Editor.load(weights, config=config, cpu=True))


class GatedPainter(Painter):
    """Waits before every step until it is let."""

    def __init__(self, painter):
        self.__dict__ |= vars(painter)
        self.steps = threading.Semaphore(0)

    def edit(self, plan, step):
        def gated(num_done, num_steps):
            while not self.steps.acquire(timeout=0.02):
                step(num_done, num_steps)
            step(num_done, num_steps)

        return super().edit(plan, gated)


@contextmanager
def served(painter):
    """Serve a painter on a free port; yields the client."""
    queue, listener = Queue(), paint.listen(0)
    server = paint.make_server(make_app(painter, queue, TOKEN), TOKEN)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        yield Client(listener.getsockname()[1])
    finally:
        server.should_exit = True
        assert queue.close(30)
        thread.join(30)
        listener.close()


def pixels(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(content))).astype(int)
