"""WebSocket echo against a server of ours: 1 B to 1 MB, text and binary, fragmented or not.

usage: ws_echo.py URL...

Prints one line for each URL and exits 0 when every message came back as it was sent.
"""

import asyncio
import os
import sys

from websockets.asyncio.client import connect

SIZES = [1, 2, 125, 126, 127, 1000, 1459, 1460, 1461, 4096, 65535, 65536, 65537, 250_000, 1_000_000]


async def echo(socket, message, pieces=None):
    """Sends message (or its pieces, one frame each) and checks what comes back."""
    sender = asyncio.create_task(socket.send(message if pieces is None else pieces))
    answer = await asyncio.wait_for(socket.recv(), 20)
    await sender
    if answer != message:
        raise AssertionError(f"{len(message)} sent, {len(answer)} came back, or not the same")


def cut(message, parts):
    """The message in `parts` pieces, none of them empty."""
    step = max(1, len(message) // parts)
    return [message[at : at + step] for at in range(0, len(message), step)]


async def one(url):
    """All messages over one connection. Returns how many were echoed."""
    count = 0
    async with connect(url, compression=None, max_size=None, ping_interval=None) as socket:
        for size in SIZES:
            binary = os.urandom(size)
            # Two-byte characters, so that frames end inside of them.
            text = ("\u00e9" * size)[: max(1, size // 2)]
            for message in (binary, text):
                await echo(socket, message)
                await echo(socket, message, cut(message, 3))
                await echo(socket, message, cut(message, 17))
                count += 3
        pong = await socket.ping(b"still there?")
        await asyncio.wait_for(pong, 20)
    if socket.close_code != 1000:
        raise AssertionError(f"closed with {socket.close_code}")
    return count


async def many(url, connections):
    """Many connections at once, one message in flight on each."""

    async def small():
        async with connect(url, compression=None, ping_interval=None) as socket:
            for _ in range(10):
                await echo(socket, os.urandom(64))

    await asyncio.gather(*(small() for _ in range(connections)))


async def main():
    for url in sys.argv[1:]:
        count = await one(url)
        await many(url, 100)
        print(f"{url}: {count} messages echoed, and 1000 over 100 connections")


asyncio.run(asyncio.wait_for(main(), 100))
