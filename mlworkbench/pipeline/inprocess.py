"""IPython's own kernel without its sockets: cells run in this process, and nbclient is handed the messages that a kernel would send."""

# The kernel is ipykernel's, configuration, magics, displays, comms and all; nbclient's code that turns messages into a notebook's
# outputs is untouched. Only the road between them is short: no ZeroMQ, no polling, no waiting for a shutdown. One a process.

import asyncio
import codecs
import inspect
import logging
import os
import select
import sys
import threading
from collections import deque
from queue import Empty
from types import SimpleNamespace
from typing import ClassVar

from ipykernel import ipkernel
from ipykernel.inprocess.socket import DummySocket
from ipykernel.iostream import IOPubThread, OutStream
from ipykernel.ipkernel import IPythonKernel
from ipykernel.kernelapp import IPKernelApp
from jupyter_client.session import Session
from tornado.ioloop import IOLoop
from traitlets import Any, default
from traitlets.config import Config


class KeptMessages(Session):
    "Keeps what would be sent, in order and in the form in which a client would receive it."

    published = Any()
    replies = Any()

    def send(
        self,
        stream,
        msg_or_type,
        content=None,
        parent=None,
        ident=None,
        buffers=None,
        track=False,
        header=None,
        metadata=None,
    ):
        msg = msg_or_type
        if not isinstance(msg, dict):
            msg = self.msg(msg_or_type, content=content, parent=parent, header=header, metadata=metadata)
        received = {
            k: self.unpack(self.pack(msg[k])) for k in ("header", "parent_header", "metadata", "content")
        }
        received |= {k: received["header"][k] for k in ("msg_id", "msg_type")}
        received["buffers"] = [bytes(b) for b in buffers or ()]
        (self.replies if received["msg_type"].endswith("_reply") else self.published).append(received)
        return msg


class _NothingImported:
    "`sys`, as if no module were imported yet."

    modules: ClassVar[dict] = {}

    def __getattr__(self, name):
        return getattr(sys, name)


class PlainKernel(IPythonKernel):
    "A kernel without a debugger, which would take longer to import than all the rest."

    debugger_class = Any()

    def __init__(self, **kwargs):
        sys.modules.setdefault("ipykernel.debugger", SimpleNamespace(_is_debugpy_available=False))
        # The debugger would be told of all modules. Merely to look at them, a forked process copies 20 MB of its parent's memory.
        ipkernel.sys = _NothingImported()
        try:
            super().__init__(**kwargs)
        finally:
            ipkernel.sys = sys


class Kernel(PlainKernel):
    "A kernel with nobody in its queue."

    def _abort_queues(self, subshell_id=None):
        pass


class Stream(OutStream):
    "An output stream that can tell when all has arrived that processes, and code below Python, wrote to its descriptor."

    def __init__(self, *args, **kwargs):
        self.arriving = threading.Lock()
        self.decoder = codecs.getincrementaldecoder("utf-8")("replace")
        super().__init__(*args, **kwargs)

    def _watch_pipe_fd(self):
        arrivals = select.poll()
        arrivals.register(self._fid, select.POLLIN)
        while self._should_watch:
            arrivals.poll()
            self.drain()

    def drain(self) -> None:
        "Take what has arrived."
        if self._fid is None:
            return
        arrivals = select.poll()
        arrivals.register(self._fid, select.POLLIN)
        with self.arriving:
            while arrivals.poll(0) and self._should_watch:
                data = os.read(self._fid, 65536)
                self.write(self.decoder.decode(data))
                os.write(self._original_stdstream_copy, data)


class PlainApp(IPKernelApp):
    "ipykernel's application where it is told no more than where to connect: no parser for that, and no configuration of Python's logging for its own warnings."

    def __init__(self, **told):
        super().__init__(log=logging.Logger("IPKernelApp", logging.WARNING), **told)

    def parse_command_line(self, argv=None):
        if not argv:
            return
        if len(argv) != 2 or argv[0] != "-f":
            return super().parse_command_line(argv)
        self.argv, self.cli_config = argv, Config(IPKernelApp={"connection_file": argv[1]})
        self.update_config(self.cli_config)


class KernelApp(PlainApp):
    "Sets the kernel up as ipykernel does, but for sockets, connection file and watching a parent."

    kernel_class = Kernel
    outstream_class = f"{__name__}.Stream"
    quiet = True

    @default("session")
    def _default_session(self):
        return KeptMessages(parent=self, username="kernel", published=deque(), replies=deque())

    def init_sockets(self):
        self.iopub_thread = IOPubThread(DummySocket(), session=self.session)
        self.iopub_thread.start()
        self.iopub_socket = self.iopub_thread.background_socket

    def init_kernel(self):
        self.kernel = self.kernel_class.instance(
            parent=self,
            session=self.session,
            iopub_thread=self.iopub_thread,
            iopub_socket=self.iopub_socket,
            stdin_socket=DummySocket(),
            log=self.log,
            profile_dir=self.profile_dir,
            user_ns=self.user_ns,
        )
        self.kernel.shell_channel_thread = SimpleNamespace(parent_thread=threading.current_thread())
        self.displayhook.get_execution_count = lambda: self.kernel.execution_count

    def _nothing(self, *args, **kwargs):
        pass

    init_crash_handler = init_connection_file = init_poller = init_heartbeat = _nothing
    write_connection_file = log_connection_info = _nothing


class Channel:
    "The receiving end of a channel, and where a widget's messages to the kernel wait for its next request."

    def __init__(self, queue: deque, waiting: deque):
        self.queue, self.send = queue, waiting.append

    async def get_msg(self, timeout=None):
        if not self.queue:
            raise Empty
        return self.queue.popleft()


class InProcessKernel:
    "What nbclient asks of a kernel's manager and client, in one."

    has_kernel = True
    allow_stdin = False

    def __init__(self):
        app = KernelApp.instance(config=Config(HistoryManager={"enabled": False}))
        app.initialize([])
        self.kernel, self.session = app.kernel, app.session
        self.waiting: deque = deque()
        self.iopub_channel = Channel(self.session.published, self.waiting)
        self.shell_channel = Channel(self.session.replies, self.waiting)

    async def is_alive(self) -> bool:
        return True

    async def execute(
        self,
        code,
        silent=False,
        store_history=True,
        user_expressions=None,
        allow_stdin=None,
        stop_on_error=True,
    ):
        while self.waiting:
            await self.handle(self.waiting.popleft())
        content = {
            "code": code,
            "silent": silent,
            "store_history": store_history,
            "user_expressions": user_expressions or {},
        }
        return await self.handle(
            self.session.msg(
                "execute_request", content | {"allow_stdin": False, "stop_on_error": stop_on_error}
            )
        )

    def kernel_info(self) -> str:
        request = self.session.msg("kernel_info_request")
        self.session.send(None, "kernel_info_reply", self.kernel.kernel_info | {"status": "ok"}, request)
        return request["header"]["msg_id"]

    async def handle(self, request: dict) -> str:
        "Do what the request says, as `Kernel.dispatch_shell` would; its id."
        kernel, ident = self.kernel, [b"nbclient"]
        request.setdefault("buffers", [])
        kernel.io_loop = IOLoop.current()
        kernel.set_parent(ident, request, channel="shell")
        kernel._publish_status("busy", "shell")
        kernel.pre_handler_hook()
        try:
            done = kernel.shell_handlers[request["header"]["msg_type"]](None, ident, request)
            if inspect.isawaitable(done):
                await done
        except KeyboardInterrupt:
            self.session.send(
                None,
                "execute_reply",
                {"status": "error", "ename": "KeyboardInterrupt", "evalue": ""},
                request,
            )
        finally:
            kernel.post_handler_hook()
        await asyncio.sleep(0)  # tasks that the cell started get their turn
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, Stream):  # a cell may have put another one there
                stream.drain()
            stream.flush()
        kernel._publish_status("idle", "shell")
        return request["header"]["msg_id"]
