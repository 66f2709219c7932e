"""A WebSocket server that echoes, on Python's websockets.

usage: websocket.py ADDRESS:PORT
"""

import asyncio
import sys

from websockets.asyncio.server import serve


async def echo(socket):
    async for message in socket:
        await socket.send(message)


async def main():
    host, port = sys.argv[1].rsplit(":", 1)
    async with serve(echo, host, int(port), compression=None) as server:
        await server.serve_forever()


asyncio.run(main())
