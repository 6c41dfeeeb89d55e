"""A process that has the heavy imports done and forks Python children from there."""

# Run as a script with one argument, the JSON of `{"socket", "preload", "root", "identity", "idle"}`. It imports nothing of the
# workbench before a fork, so that a child sees the project's code as it is. One request a connection on a Unix socket that
# only its user can open:
#
# - `{"do": "child", "cwd", "env", "path"}` with the descriptors of stdout and stderr: a child is forked; the connection is the
#   child's from then on, which says `{"pid": …}` at first; the server says `{"exit": status}` in the end.
# - `{"do": "status"}` is answered with what the server is; `{"do": "stop"}` ends it once its children have ended.
#
# A child runs the calls that come over its connection, one JSON line each: `{"call": "module:function", "arguments": […]}`. It
# answers `{"result": …}` or `{"error": …}`, with `{"event": …}` lines in between. When the connection closes, whoever closed it,
# the child's process group is killed: by a thread of the child, and by the server, which a child that hogs its
# interpreter can't hold up. `serve_calls` is also what a plain new process runs where there is no fork.

import sys

if __name__ == "__main__":
    del sys.path[0]  # this file's folder, which Python puts there for a script

import array
import contextlib
import gc
import importlib
import importlib.machinery
import importlib.util
import json
import os
import queue
import select
import signal
import socket
import threading
import time


def say(stream, message: dict) -> None:
    "Send one line."
    stream.sendall(json.dumps(message).encode() + b"\n")


def serve_calls(connection) -> None:
    "Run the calls that come over `connection` until it closes; then end this process with all its children."
    calls: queue.SimpleQueue = queue.SimpleQueue()
    lock = threading.Lock()

    def read() -> None:
        with contextlib.suppress(OSError, ValueError), connection.makefile("rb") as lines:
            for line in lines:
                calls.put(json.loads(line))  # not JSON: the client's death cut it short
        kill_group(0)
        os._exit(1)

    def answer(message: dict) -> None:
        with lock:
            say(connection, message)

    threading.Thread(target=read, daemon=True, name="lifeline").start()
    write_no_young_bytecode()
    while True:
        asked = calls.get()
        if asked.get("do") == "exit":
            break
        try:
            module, _, name = asked["call"].partition(":")
            function = getattr(importlib.import_module(module), name)
            result = function(*asked["arguments"], tell=lambda event: answer({"event": event}))
            answer({"result": result})
        except BaseException as err:
            answer({"error": describe(err)})
    import atexit

    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    os._exit(0)


def write_no_young_bytecode() -> None:
    "Python knows a cached module by its source's size and whole second: written within that second, it would hide a quick edit."
    loader = importlib.machinery.SourceFileLoader
    write = loader.set_data

    def set_data(self, path, data, **options):
        if time.time() - os.stat(self.path).st_mtime > 2:
            write(self, path, data, **options)

    loader.set_data = set_data


def describe(err: BaseException) -> dict:
    "An exception as JSON; ours keep type and fields."
    import traceback

    kind = type(err)
    about = {"type": f"{kind.__module__}:{kind.__qualname__}", "message": str(err)}
    fields = getattr(err, "fields", None)
    if isinstance(fields, dict):
        about["fields"] = {
            k: v if isinstance(v, (int, float, str, list)) else str(v) for k, v in fields.items()
        }
    return about | {"traceback": "".join(traceback.format_exception(err))}


def become_child(connection, request: dict, descriptors: list[int]) -> None:
    "Make the process that was just forked look like one that was just started, and serve."
    os.setsid()
    call_it("mlw-kernel")
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    for standard, given in zip((1, 2), descriptors, strict=True):
        os.dup2(given, standard)
    for used in (null, *descriptors):
        if used > 2:
            os.close(used)
    for name in ("SIGTERM", "SIGCHLD", "SIGINT"):
        signal.signal(getattr(signal, name), signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.set_wakeup_fd(-1)
    os.environ.clear()
    os.environ.update(request["env"])
    os.chdir(request["cwd"])
    sys.path[:0] = request["path"]
    sys.argv[:] = [""]
    sys.path_importer_cache.clear()
    importlib.invalidate_caches()
    sys.modules.pop(
        "matplotlib_inline.backend_inline", None
    )  # it ties itself to the shell that there is when it is imported
    time.tzset()
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed()
    say(connection, {"pid": os.getpid()})  # the server may have been killed since it forked
    serve_calls(connection)


class Server:
    "Listens, forks, and says how each child ended."

    def __init__(self, about: dict):
        self.about, self.children = about, {}  # pid → connection
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(about["socket"])
        self.listener.listen(64)
        self.inode = os.stat(about["socket"]).st_ino
        self.wake, self.signalled = os.pipe()
        for fd in (self.wake, self.signalled):
            os.set_blocking(fd, False)
        signal.set_wakeup_fd(self.signalled, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        self.poll = select.poll()
        for fd in (self.listener.fileno(), self.wake):
            self.poll.register(fd, select.POLLIN)
        self.failed: dict[str, str] = {}
        self.born, self.used, self.stopping = time.time(), time.monotonic(), False

    def preload(self) -> None:
        "Import the modules, but no file of the project; one that can't be imported is left out, and told."
        for entry in self.about["preload"]:
            name, _, function = entry.partition(":")
            try:
                origin = importlib.util.find_spec(name.partition(".")[0]).origin or ""
                if is_of_project(origin, self.about["root"]):
                    raise ImportError("it is a part of the project")
                module = importlib.import_module(name)
                if function:
                    getattr(module, function)(self.about["root"])
            except Exception as err:
                self.failed[entry] = f"{type(err).__name__}: {err}"
        sys.path_importer_cache.clear()  # a child begins without it, and to clear what a fork shares is to copy it
        gc.collect()
        gc.freeze()

    def serve(self) -> None:
        "Answer until told to stop, or idle for long."
        self.used = time.monotonic()
        while self.children or not self.stopping:
            for fd, _ in self.poll.poll(5000):
                if fd == self.listener.fileno():  # -1 once it is closed
                    with contextlib.suppress(OSError, ValueError):
                        self.receive()
                elif fd == self.wake:
                    with contextlib.suppress(BlockingIOError):
                        os.read(self.wake, 4096)
                else:
                    self.hung_up(fd)
            self.reap()
            if not self.children and time.monotonic() - self.used > self.about["idle"]:
                self.stop()
            self.stopping = self.stopping or not self.has_address()

    def has_address(self) -> bool:
        "Whether the socket's file is still ours, and not another server's or swept away."
        with contextlib.suppress(OSError):
            return os.stat(self.about["socket"]).st_ino == self.inode
        return False

    def stop(self) -> None:
        "Take no more requests; the loop ends with the last child."
        if self.has_address():
            os.unlink(self.about["socket"])
        self.poll.unregister(self.listener.fileno())
        self.listener.close()
        self.stopping = True

    def receive(self) -> None:
        "Take a connection with its request, and the descriptors that came with it, and answer."
        connection, _ = self.listener.accept()
        connection.settimeout(5)
        space = socket.CMSG_SPACE(2 * array.array("i").itemsize)
        data, extra, *_ = connection.recvmsg(1 << 20, space)
        descriptors = array.array("i")
        for _, _, raw in extra:
            descriptors.frombytes(raw)
        try:
            while not data.endswith(b"\n"):
                more = connection.recv(1 << 20)
                if not more:
                    return  # the client died before its request was out
                data += more
            connection.settimeout(None)
            self.answer(connection, json.loads(data), list(descriptors))
        finally:
            for fd in descriptors:
                os.close(fd)

    def answer(self, connection, request: dict, descriptors: list[int]) -> None:
        self.used = time.monotonic()
        asked = request.get("do")
        if asked == "child":
            self.fork(connection, request, descriptors)
        elif asked == "status":
            about = {k: self.about[k] for k in ("identity", "root", "preload", "idle")}
            about |= {
                "pid": os.getpid(),
                "born": self.born,
                "children": sorted(self.children),
                "failed": self.failed,
            }
            say(connection, about)
        elif asked == "stop":
            say(connection, {"children": len(self.children)})
            self.stop()

    def fork(self, connection, request: dict, descriptors: list[int]) -> None:
        pid = os.fork()
        if pid == 0:
            try:
                self.listener.close()
                for other in self.children.values():
                    other.close()
                os.close(self.wake)
                os.close(self.signalled)
                self.children.clear()
                become_child(connection, request, descriptors)
            except BaseException as err:
                with contextlib.suppress(OSError):
                    say(connection, {"error": describe(err)})
            finally:
                os._exit(1)
        self.children[pid] = connection
        self.poll.register(connection.fileno(), 0)  # hang-ups only: the lines are for the child

    def hung_up(self, fd: int) -> None:
        "The client is gone: so is the child."
        for pid, connection in self.children.items():
            if connection.fileno() == fd:
                self.poll.unregister(fd)
                kill_group(pid)
                return

    def reap(self) -> None:
        while self.children:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            connection = self.children.pop(pid, None)
            if connection:
                kill_group(pid)
                with contextlib.suppress(KeyError):
                    self.poll.unregister(connection.fileno())
                with contextlib.suppress(OSError):
                    connection.settimeout(1)
                    connection.sendall(
                        b"\n" + json.dumps({"exit": os.waitstatus_to_exitcode(status)}).encode() + b"\n"
                    )
                connection.close()
            self.used = time.monotonic()


def call_it(name: str) -> None:
    "Name this process for `ps` and `top`, where that is possible."
    with contextlib.suppress(OSError), open("/proc/self/comm", "w") as f:
        f.write(name)


def is_of_project(origin: str, root: str) -> bool:
    "Whether a file is the project's own; packages may be installed in a folder of it (`.venv`)."
    return (
        os.path.realpath(origin).startswith(os.path.join(root, ""))
        and f"{os.sep}site-packages{os.sep}" not in origin
    )


def kill_group(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError, AttributeError):
        os.killpg(pid, signal.SIGKILL)


class Pipes:
    "Standard input and output as a connection; what the process prints goes to standard error from now on."

    def __init__(self):
        self.lines, self.out = os.fdopen(os.dup(0), "rb"), os.dup(1)
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        os.dup2(2, 1)

    def makefile(self, mode: str):
        return self.lines

    def sendall(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(self.out, view) :]


def main() -> None:
    if sys.argv[1:] == ["--child"]:
        serve_calls(Pipes())
    server = Server(json.loads(sys.argv[1]))  # listens from now on; clients wait while the imports are done
    call_it("mlw-forkserver")
    server.preload()
    server.serve()


if __name__ == "__main__":
    main()
