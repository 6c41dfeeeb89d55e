"""A bounded load: requests over kept connections on 127.0.0.1, one under way on each. Prints JSON: seconds of each answer.

python benchmarks/load.py PORT PATH BODY_FILE CONNECTIONS SECONDS
"""

import asyncio
import json
import sys
import time


async def ask(port: int, request: bytes, until: float, seconds: list[float], failures: list[str]) -> None:
    "Ask again and again over one connection."
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    while time.perf_counter() < until:
        began = time.perf_counter()
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(
            int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")
        )
        body = await reader.readexactly(length)
        if not head.startswith(b"HTTP/1.1 200"):
            failures.append(body[:200].decode("utf-8", "replace"))
        seconds.append(time.perf_counter() - began)
    writer.close()


async def main(port: str, path: str, file: str, connections: str, duration: str) -> None:
    with open(file, "rb") as body:
        data = body.read()
    request = (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
    ).encode() + data
    seconds, failures = [], []
    began = time.perf_counter()
    until = began + float(duration)
    await asyncio.gather(
        *(ask(int(port), request, until, seconds, failures) for _ in range(int(connections)))
    )
    told = {
        "requests": len(seconds),
        "wall": time.perf_counter() - began,
        "failures": len(failures),
        "first": failures[:1],
    }
    print(json.dumps(told | {"seconds": seconds}))


if __name__ == "__main__":
    import uvloop

    uvloop.run(main(*sys.argv[1:]))
